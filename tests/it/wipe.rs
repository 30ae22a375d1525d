//! The wipe of a GPU's memory, by the program's own child, against a stand-in for CUDA's library: it
//! shows the agent's logic and says nothing about hardware.

#[path = "../support/fake_cuda.rs"]
mod fake_cuda;

use std::{path::Path, process::Command, time::Duration};

use rental_agent::gpu::{ward::Wiped, wipe::Wiper};

use self::fake_cuda::FakeCuda;
use crate::wait::wait_until;

const GPU: &str = "GPU-5f2c8d10-6a3e-4b71-9c0d-2e8f71a4b6c3";
const MIB: u64 = 1024 * 1024;

fn wiper(library: Option<&Path>) -> Wiper {
    Wiper::new(env!("CARGO_BIN_EXE_rental-agent").into(), library)
}

async fn wiped(cuda: &FakeCuda) -> Wiped {
    wiper(Some(&cuda.library)).wipe(&GPU.parse().unwrap()).await
}

fn why(wiped: Wiped) -> String {
    match wiped {
        Wiped::Failed(why) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn all_that_is_free_of_that_gpu_is_overwritten_in_as_many_pieces_as_it_takes() {
    let cuda = FakeCuda::with("free 1000\nlargest 300\n");
    let Wiped::Done {
        wiped_bytes,
        total_bytes,
    } = wiped(&cuda).await
    else {
        panic!("it is wiped");
    };
    assert_eq!(total_bytes, 1 << 30);
    assert!(wiped_bytes > (1000 - 16) * MIB, "{wiped_bytes}");
    let pieces = cuda.asked("zeroed");
    assert!(pieces.len() > 3, "{pieces:?}");
    let zeroed: u64 = pieces
        .iter()
        .map(|piece| piece.parse::<u64>().unwrap())
        .sum();
    assert_eq!(zeroed, wiped_bytes);
    assert_eq!(cuda.asked("sees"), [GPU]);
}

#[tokio::test]
async fn what_can_be_had_only_in_part_is_a_failure() {
    let cuda = FakeCuda::with("free 8000\nhad 4000\n");
    let why = why(wiped(&cuda).await);
    assert!(why.contains("could be overwritten"), "{why}");
}

#[tokio::test]
async fn what_the_driver_refuses_is_a_failure_with_its_words() {
    for script in ["init 999\n", "memset 700\n"] {
        let cuda = FakeCuda::with(script);
        let why = why(wiped(&cuda).await);
        assert!(why.contains("CUDA"), "{script}: {why}");
    }
}

#[tokio::test]
async fn one_that_hangs_is_killed_in_time() {
    let cuda = FakeCuda::with("hang\n");
    let wiper = wiper(Some(&cuda.library)).within(Duration::from_secs(3));
    let why = why(wiper.wipe(&GPU.parse().unwrap()).await);
    assert!(why.contains("did not end within 3s"), "{why}");
    let child = cuda.asked("pid").pop().expect("it had begun");
    let gone = || std::future::ready(!Path::new("/proc").join(&child).exists());
    wait_until("the end of the child", Duration::from_secs(10), gone).await;
}

#[tokio::test]
async fn a_library_that_is_none_is_a_failure() {
    let cuda = FakeCuda::with("");
    std::fs::write(&cuda.library, "no library").unwrap();
    let why = why(wiped(&cuda).await);
    assert!(!why.is_empty());
}

/// F67: a normal host.
#[tokio::test]
async fn without_the_library_nothing_is_done_and_that_is_said() {
    let listed = Command::new("ldconfig").arg("-p").output();
    let listed = listed.map(|out| String::from_utf8_lossy(&out.stdout).into_owned());
    if listed.is_ok_and(|listed| listed.contains("libcuda.so")) {
        eprintln!("SKIPPED: this host has CUDA's library");
        return;
    }
    match wiper(None).wipe(&GPU.parse().unwrap()).await {
        Wiped::Impossible(why) => assert!(why.contains("libcuda.so.1 not found"), "{why}"),
        other => panic!("{other:?}"),
    }
}
