//! Errors that GPUs report by themselves.

use std::{sync::mpsc as std_mpsc, time::Duration};

use rental_agent::gpu::{Xid, nvml::xid::listen};
use tokio::{sync::mpsc, time::timeout};

use super::{LIMIT, fake_nvml::FakeNvml, uuid};

struct Listening {
    xids: mpsc::Receiver<Xid>,
    stop: std_mpsc::Sender<()>,
    nvml: FakeNvml,
}

/// With room for so many.
fn listening(script: &str, room: usize) -> Listening {
    let nvml = FakeNvml::with(script);
    let (sender, xids) = mpsc::channel(room);
    let (stop, until) = std_mpsc::channel();
    let again = Duration::from_millis(20);
    listen(Some(nvml.library.clone()), sender, until, again).unwrap();
    Listening { xids, stop, nvml }
}

impl Listening {
    /// Says it again and again, each time as a new event, until it is heard: what happens before
    /// somebody listens is past.
    async fn hear(&mut self, script: &str, gpu: u32, code: u64) {
        let mut number = 1_000 * code;
        let heard = timeout(LIMIT, async {
            loop {
                number += 1;
                self.nvml
                    .script(&format!("{script}xid {gpu} {code} {number}\n"));
                let next = timeout(Duration::from_millis(300), self.xids.recv()).await;
                match next {
                    Ok(Some(xid)) if xid.code == code => return xid,
                    Ok(Some(_)) | Err(_) => {}
                    Ok(None) => panic!("the thread has ended"),
                }
            }
        });
        let heard = heard
            .await
            .unwrap_or_else(|_| panic!("Xid {code} is not heard"));
        assert_eq!(heard.uuid.as_str(), uuid(gpu));
    }
}

#[tokio::test]
async fn f68_an_xid_is_heard_with_the_name_of_its_gpu_also_when_that_is_lost_by_then() {
    let mut listening = listening("gpus 3\n", 64);
    listening.hear("gpus 3\n", 1, 31).await;
    listening.hear("gpus 3\nlost 2\n", 2, 79).await;
}

#[tokio::test]
async fn a_gpu_that_cannot_be_listened_to_silences_no_other() {
    let mut listening = listening("gpus 2\nevents 0 999\n", 64);
    listening.hear("gpus 2\nevents 0 999\n", 1, 48).await;
}

#[tokio::test]
async fn a_driver_that_comes_later_is_listened_to() {
    let mut listening = listening("init 18\n", 64);
    listening.hear("gpus 1\n", 0, 63).await;
}

#[tokio::test]
async fn nobody_waits_for_a_wait_that_hangs() {
    let mut listening = listening("gpus 1\nhang nvmlEventSetWait_v2\n", 1);
    drop(listening.stop);
    assert!(listening.xids.try_recv().is_err());
    // The thread ends by itself as soon as it can.
    listening.nvml.script("gpus 1\n");
    let ended = timeout(LIMIT, listening.xids.recv()).await.unwrap();
    assert_eq!(ended, None);
}

#[tokio::test]
async fn what_nobody_takes_is_dropped_and_the_thread_goes_on() {
    let mut listening = listening("gpus 1\n", 1);
    listening.hear("gpus 1\n", 0, 13).await;
    for code in 14..20 {
        listening.hear("gpus 1\n", 0, code).await;
    }
}
