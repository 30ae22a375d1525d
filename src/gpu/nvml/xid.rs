//! Xid events: errors that a GPU reports by itself, which no sample shows. Waited for on a thread of
//! its own, with the library opened once more: a wait that hangs costs this thread only, and nobody
//! waits for it.

use std::{
    io,
    path::PathBuf,
    sync::mpsc::{Receiver, RecvTimeoutError},
    thread,
    time::Duration,
};

use nvml_wrapper::{
    EventSet, Nvml, bitmasks::event::EventTypes, enums::event::XidError, error::NvmlError,
};
use tokio::sync::mpsc::{Sender, error::TrySendError};

use super::{LoadedFile, count, load, said_of, uuid_of};
use crate::{clock, gpu::Xid, ids::GpuUuid};

/// One round over all GPUs takes so long while nothing happens.
const ROUND_MS: u32 = 1_000;

/// Between two rounds, so that a library that does not wait costs no more than a glance.
const BREATH: Duration = Duration::from_millis(20);

/// What the driver calls an error that it has no number for.
const UNKNOWN: u64 = 999;

/// Starts the thread. `again` is from one look at what GPUs there are to the next, and from a failure
/// to the next try. It ends, when its wait is over, after the other end of `stop` is gone.
///
/// # Errors
/// When the system has no thread to give.
pub fn listen(
    library: Option<PathBuf>,
    xids: Sender<Xid>,
    stop: Receiver<()>,
    again: Duration,
) -> io::Result<()> {
    // Not joined: nothing may wait for it.
    thread::Builder::new()
        .name("gpu-xid".to_owned())
        .spawn(move || {
            let mut ear = Ear { xids, dropped: 0 };
            loop {
                // Why the driver does not answer, the probe says.
                if let Ok(nvml) = load(library.as_deref()) {
                    let file = LoadedFile::find(library.as_deref());
                    ear.hear(&nvml, file.as_ref(), &stop, again);
                }
                match stop.recv_timeout(again) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => break,
                }
            }
        })?;
    Ok(())
}

/// Hears what GPUs say and passes it on.
struct Ear {
    xids: Sender<Xid>,
    /// What nobody took in time.
    dropped: u64,
}

impl Ear {
    /// Until it is told to stop, nothing can be heard any more, or the library is another one. Each
    /// GPU has a set of its own: one that fails takes no other with it, and says by itself whose
    /// event it is, which a lost GPU can no longer be asked.
    fn hear(
        &mut self,
        nvml: &Nvml,
        file: Option<&LoadedFile>,
        stop: &Receiver<()>,
        again: Duration,
    ) {
        if nvml.lib().nvmlEventSetFree.is_err() {
            // Dropping a set would call what is not there, which panics.
            return;
        }
        let mut sets: Vec<(GpuUuid, EventSet<'_>)> = Vec::new();
        let mut look_at = Duration::ZERO;
        loop {
            let now = clock::now().boot;
            if now >= look_at {
                look_at = now + again;
                register_new(nvml, &mut sets);
            }
            if sets.is_empty() || file.is_some_and(LoadedFile::is_replaced) {
                return;
            }
            let each = ROUND_MS / u32::try_from(sets.len()).unwrap_or(ROUND_MS);
            sets.retain(|(uuid, set)| self.wait(uuid, set, each.max(1)));
            match stop.recv_timeout(BREATH) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Whether the set is still good.
    fn wait(&mut self, uuid: &GpuUuid, set: &EventSet<'_>, limit_ms: u32) -> bool {
        match set.wait(limit_ms) {
            Ok(event) => {
                if let Some(error) = event.event_data {
                    self.pass_on(Xid {
                        uuid: uuid.clone(),
                        code: match error {
                            XidError::Value(code) => code,
                            XidError::Unknown => UNKNOWN,
                        },
                    });
                }
                true
            }
            Err(NvmlError::Timeout) => true,
            Err(error) => {
                let error = said_of(&error);
                tracing::warn!(%uuid, error, "the GPU's errors cannot be heard for a while");
                false
            }
        }
    }

    fn pass_on(&mut self, xid: Xid) {
        tracing::warn!(uuid = %xid.uuid, code = xid.code, "a GPU reports an error (Xid)");
        if let Err(TrySendError::Full(_)) = self.xids.try_send(xid) {
            self.dropped += 1;
            let dropped = self.dropped;
            tracing::warn!(dropped, "GPU errors come faster than they are judged");
        }
    }
}

/// Those that can report errors and have no set yet. The others keep theirs: what happens between two
/// sets is lost.
fn register_new<'nvml>(nvml: &'nvml Nvml, sets: &mut Vec<(GpuUuid, EventSet<'nvml>)>) {
    for index in 0..count(nvml).unwrap_or(0) {
        let Ok(device) = nvml.device_by_index(index) else {
            continue;
        };
        let Ok(uuid) = uuid_of(&device) else { continue };
        if sets.iter().any(|(known, _)| *known == uuid) {
            continue;
        }
        let wanted = EventTypes::CRITICAL_XID_ERROR;
        let able = device.supported_event_types();
        if !able.is_ok_and(|able| able.contains(wanted)) {
            continue;
        }
        let set = nvml.create_event_set();
        let set = set.and_then(|set| {
            let registered = device.register_events(wanted, set);
            registered.map_err(|failed| failed.error)
        });
        if let Ok(set) = set {
            sets.push((uuid, set));
        }
    }
}
