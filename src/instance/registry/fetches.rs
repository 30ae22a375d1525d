//! Images that are being fetched: one fetch is shared by all who want the same image, in the same
//! way, with the same credentials. Pure.

use std::collections::HashMap;

use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};

use super::Registry;
use crate::{
    clock::Now,
    image::{private, reference::Reference},
    instance::{
        effect::{Effect, FetchId, FetchRequest, Fetched, Waiter},
        lifecycle,
        publish::Event,
    },
    protocol::{
        ErrorCode, Phase, Stage,
        message::{Progress, PullProgress},
        spec::PullPolicy,
    },
    runtime::{Class, Credentials, ImageFacts, RuntimeError},
};

/// Fetches in flight.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    next: u64,
    running: HashMap<FetchId, Fetch>,
}

#[derive(Debug)]
struct Fetch {
    key: Key,
    waiters: Vec<Waiter>,
}

/// What makes two wishes the same. Credentials by their hash, so that none is kept longer than needed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    reference: String,
    pull: PullPolicy,
    credentials: Option<[u8; 32]>,
}

impl Key {
    /// Whether that fetch brings what this one wants: an image that the registry is asked for in any
    /// case is also there for whoever would have taken the host's.
    fn is_served_by(&self, other: &Self) -> bool {
        let eager = self.pull == PullPolicy::Missing && other.pull == PullPolicy::Always;
        self.reference == other.reference
            && self.credentials == other.credentials
            && (self.pull == other.pull || eager)
    }
}

impl Fetches {
    /// Joins the fetch that is under way, or says that a new one has to be begun.
    pub(super) fn join(&mut self, request: &FetchRequest, waiter: Waiter) -> (FetchId, bool) {
        let key = Key {
            reference: request.reference.clone(),
            pull: request.pull,
            credentials: fingerprint(request.auth.as_ref()),
        };
        let serves = |(_, fetch): &(&FetchId, &mut Fetch)| key.is_served_by(&fetch.key);
        if let Some((id, fetch)) = self.running.iter_mut().find(serves) {
            fetch.waiters.push(waiter);
            return (*id, false);
        }
        self.next += 1;
        let id = FetchId(self.next);
        self.running.insert(
            id,
            Fetch {
                key,
                waiters: vec![waiter],
            },
        );
        (id, true)
    }

    /// Leaves; true when nobody is left and the fetch is to be cancelled.
    pub(super) fn leave(&mut self, id: FetchId, waiter: &Waiter) -> bool {
        let Some(fetch) = self.running.get_mut(&id) else {
            return false;
        };
        fetch.waiters.retain(|w| w != waiter);
        let empty = fetch.waiters.is_empty();
        if empty {
            self.running.remove(&id);
        }
        empty
    }

    /// The fetch that a command waits for.
    pub(super) fn of_command(&self, command: &crate::ids::CommandId) -> Option<FetchId> {
        let waiter = Waiter::Command(command.clone());
        self.running
            .iter()
            .find(|(_, f)| f.waiters.contains(&waiter))
            .map(|(id, _)| *id)
    }

    /// How many fetches are asked for by commands alone.
    pub(super) fn commands(&self) -> usize {
        let is_command = |w: &&Waiter| matches!(w, Waiter::Command(_));
        self.running
            .values()
            .flat_map(|f| &f.waiters)
            .filter(is_command)
            .count()
    }

    fn waiters(&self, id: FetchId) -> &[Waiter] {
        self.running.get(&id).map_or(&[], |fetch| &fetch.waiters)
    }

    fn finish(&mut self, id: FetchId) -> Vec<Waiter> {
        self.running
            .remove(&id)
            .map(|fetch| fetch.waiters)
            .unwrap_or_default()
    }
}

/// Equal for equal credentials, without being them.
pub(super) fn fingerprint(credentials: Option<&Credentials>) -> Option<[u8; 32]> {
    let mut hash = Sha256::new();
    match credentials? {
        Credentials::Password { username, password } => {
            hash.update([0]);
            hash.update(username.len().to_be_bytes());
            hash.update(username.as_bytes());
            hash.update(password.expose_secret().as_bytes());
        }
        Credentials::IdentityToken(token) => {
            hash.update([1]);
            hash.update(token.expose_secret().as_bytes());
        }
    }
    Some(hash.finalize().into())
}

impl Registry {
    /// Joins or begins a fetch.
    pub(super) fn fetch(
        &mut self,
        image: &Reference,
        pull: PullPolicy,
        auth: Option<Credentials>,
        waiter: Waiter,
    ) -> FetchId {
        let repository = private::repository(image);
        let private = self.private.contains(&repository);
        if auth.is_some() {
            self.private.insert(repository.clone());
        }
        let reference = image.for_engine();
        let request = FetchRequest {
            reference,
            repository,
            pull,
            auth,
            private,
        };
        let (id, new) = self.fetches.join(&request, waiter);
        if new {
            self.effects.push(Effect::Fetch(id, request));
        }
        id
    }

    /// Leaves a fetch, and cancels it when nobody is left.
    pub(super) fn leave_fetch(&mut self, id: FetchId, waiter: &Waiter) {
        if self.fetches.leave(id, waiter) {
            self.effects.push(Effect::CancelFetch(id));
        }
    }

    pub(super) fn fetch_progress(
        &mut self,
        id: FetchId,
        pull: &PullProgress,
        message: &str,
        now: Now,
    ) {
        let at = self.clock.at(now);
        for waiter in self.fetches.waiters(id).to_vec() {
            let (instance_id, command_id) = match waiter {
                Waiter::Instance(instance) => {
                    if let Some(entry) = self.entries.get_mut(&instance)
                        && entry.record.phase == Phase::Accepted
                    {
                        entry.enter(Phase::Pulling, at);
                        self.publish(&instance);
                    }
                    (Some(instance), None)
                }
                Waiter::Command(command) => (None, Some(command)),
            };
            self.emit(Event::Progress(Progress {
                instance_id,
                command_id,
                phase: Phase::Pulling,
                message: message.to_owned(),
                pull: Some(pull.clone()),
            }));
        }
    }

    /// Some engines pull an image for another machine without a word.
    fn fits(&self, image: ImageFacts) -> Fetched {
        let engine = self.engine.facts.as_ref();
        let ours = engine.map_or("", |facts| facts.architecture.as_str());
        let theirs = image.architecture.as_str();
        let runs = theirs == ours || (ours == "amd64" && theirs == "386");
        let architecture_fits = runs || ours.is_empty() || theirs.is_empty();
        if architecture_fits && matches!(image.os.as_str(), "linux" | "") {
            return Ok(image);
        }
        let what = format!(
            "the image is for {}/{theirs}, the host is linux/{ours}",
            image.os
        );
        Err(RuntimeError::new(
            "pull",
            image.id,
            Class::ImageUnsupported,
            what,
        ))
    }

    pub(super) fn fetched(&mut self, id: FetchId, fetched: Fetched, now: Now) {
        let fetched = fetched.and_then(|image| self.fits(image));
        for waiter in self.fetches.finish(id) {
            match waiter {
                Waiter::Instance(instance) => {
                    let Some(entry) = self.entries.get_mut(&instance) else {
                        continue;
                    };
                    entry.fetch = None;
                    match &fetched {
                        Ok(image) => {
                            let repository = entry.spec.as_ref().map(|s| s.image.repository());
                            entry.record.image_digest =
                                digest(&image.repo_digests, repository.unwrap_or_default());
                            entry.facts.image = Some(image.clone());
                        }
                        Err(error) => {
                            let failure = pull_failure(error);
                            self.fail(&instance, failure, now);
                        }
                    }
                    self.drive(&instance, now);
                }
                Waiter::Command(command) => {
                    let result = match &fetched {
                        Ok(image) => Ok(Some(serde_json::json!({
                            "image_id": image.id,
                            "repo_digests": image.repo_digests,
                            "size_bytes": image.size_bytes,
                        }))),
                        Err(error) => Err(pull_failure(error)),
                    };
                    self.close(command, result);
                }
            }
        }
    }
}

/// The digest under which the repository that the spec names knows the image.
fn digest(repo_digests: &[String], repository: &str) -> Option<String> {
    let named = |entry: &&String| {
        entry
            .split_once('@')
            .is_some_and(|(name, _)| repository.ends_with(name) || name.ends_with(repository))
    };
    let digest_of = |entry: &String| entry.split_once('@').map(|(_, digest)| digest.to_owned());
    repo_digests
        .iter()
        .find(named)
        .or(repo_digests.first())
        .and_then(digest_of)
}

fn pull_failure(error: &RuntimeError) -> crate::protocol::Error {
    let mut failure = lifecycle::failure(Stage::Pull, error);
    if error.class == Class::NotFound {
        failure.code = ErrorCode::ImageNotFound;
        failure.retry = failure.code.retry();
    }
    failure
}
