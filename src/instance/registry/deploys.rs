//! The deploy: the first of its id, and the same wish again. Pure.

use super::{Registry, entry::Entry, fetches::fingerprint, verify::note_missing};
use crate::{
    clock::{Now, Timestamp},
    ids::{CommandId, InstanceId},
    instance::{effect::Waiter, spec::InstanceSpec},
    protocol::{Error, ErrorCode, Outcome, Phase, Stage, command::Deploy},
    runtime::Credentials,
};

/// So many deploys may wait for one rental to be ready.
const DEPLOYS_MAX: usize = 64;

impl Registry {
    pub(super) fn deploy(
        &mut self,
        id: CommandId,
        not_after: Option<Timestamp>,
        deploy: Deploy,
        now: Now,
    ) {
        let instance = deploy.spec.instance_id.clone();
        if self.entries.contains_key(&instance) {
            return self.deploy_known(id, &instance, deploy, now);
        }
        if self.refuse_late(&id, not_after, now) {
            return;
        }
        let dry_run = deploy.dry_run;
        let (spec, allocation) = match self.admit(deploy, now) {
            Ok(admitted) => admitted,
            Err(error) => return self.reject(id, error),
        };
        if dry_run {
            let result = serde_json::json!({ "gpus": allocation.gpus, "ports": allocation.ports });
            self.slots.forgo(&instance);
            self.open(id.clone(), Outcome::Accepted);
            return self.close(id, Ok(Some(result)));
        }
        let touched = self.touch();
        let mut entry = Entry::new(instance.clone(), touched);
        self.fill_record(&mut entry, &spec, &allocation);
        entry.record.command_id = Some(id.clone());
        entry.enter(Phase::Accepted, self.clock.at(now));
        entry.facts.has_gpus = !allocation.gpus.is_empty();
        if spec.gpus.is_some() && allocation.gpus.is_empty() {
            note_missing(&mut entry, self.clock.at(now));
        }
        entry.stop_grace = spec.stop_grace;
        entry.spec = Some(Box::new(spec));
        entry.deploys.push(id.clone());
        self.entries.insert(instance.clone(), entry);
        self.publish(&instance);
        self.open(id, Outcome::Accepted);
        self.drive(&instance, now);
    }

    /// A deploy of an id that is known: the same wish again, or a conflict.
    fn deploy_known(&mut self, id: CommandId, instance: &InstanceId, deploy: Deploy, now: Now) {
        let Some(entry) = self.entries.get_mut(instance) else {
            return;
        };
        let conflict = if entry.end().is_some() {
            Some("has ended or is ending; an id is used once, ever")
        } else if entry.record.spec_sha256.as_ref() != Some(&deploy.spec_sha256) {
            Some("exists with another spec")
        } else if deploy.dry_run {
            Some("exists")
        } else {
            None
        };
        if let Some(why) = conflict {
            let error = Error::new(ErrorCode::Conflict, format!("instance {instance} {why}"));
            return self.reject(id, error.at(Stage::Admit).pointing("/spec/instance_id"));
        }
        if entry.deploys.len() >= DEPLOYS_MAX {
            let message = format!("{DEPLOYS_MAX} deploys wait for instance {instance} already");
            return self.reject(id, Error::new(ErrorCode::InsufficientResources, message));
        }
        entry.deploys.push(id.clone());
        if let Ok(newer) =
            InstanceSpec::parse(deploy.spec, deploy.spec_sha256, &self.options.policy)
        {
            self.use_newest_credentials(instance, newer.auth);
        }
        self.publish(instance);
        self.open(id, Outcome::Already);
        self.answer_deploys(instance);
        self.drive(instance, now);
    }

    /// Also for a pull that is under way: what it was begun with may have expired.
    fn use_newest_credentials(&mut self, instance: &InstanceId, auth: Option<Credentials>) {
        let Some(entry) = self.entries.get_mut(instance) else {
            return;
        };
        let Some(spec) = &mut entry.spec else { return };
        let other = fingerprint(auth.as_ref()) != fingerprint(spec.auth.as_ref());
        spec.auth = auth;
        if let Some(fetch) = entry.fetch.take_if(|_| other) {
            self.leave_fetch(fetch, &Waiter::Instance(instance.clone()));
        }
    }

    /// Answers the deploys that wait, once the rental is ready.
    pub(super) fn answer_deploys(&mut self, instance: &InstanceId) {
        let Some(entry) = self.entries.get_mut(instance) else {
            return;
        };
        if entry.record.phase != Phase::Ready {
            return;
        }
        let waiting = std::mem::take(&mut entry.deploys);
        if waiting.is_empty() {
            return;
        }
        let result = serde_json::json!({ "instance": entry.record });
        for id in waiting {
            self.close(id, Ok(Some(result.clone())));
        }
    }
}
