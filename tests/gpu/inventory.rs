//! What is listed.

use rental_agent::{
    gpu::{
        Found, GpuProbe,
        nvidia_smi::{Asking, NvidiaSmi},
        watch::{GpuWatch, Pace},
    },
    protocol::record::Health,
};
use tokio_util::sync::CancellationToken;

use super::{probe, report};

#[test]
fn the_inventory_is_what_nvidia_smi_says_field_by_field() {
    let report = report();
    let gpus = probe().inventory().unwrap();
    let said = report.gpus();
    assert_eq!(gpus.len(), said.len());
    for (index, (found, said)) in (0..).zip(gpus.iter().zip(&said)) {
        let gpu = &found.gpu;
        assert_eq!(gpu.index, index);
        assert_eq!(Some(gpu.uuid.as_str()), said.text(&["uuid"]));
        assert_eq!(Some(gpu.model.as_str()), said.text(&["product_name"]));
        let mib = said.number(&["fb_memory_usage", "total"]).unwrap();
        assert_eq!((gpu.memory_bytes >> 20) as f64, mib);
        // `00000000:01:00.0` there, `0000:01:00.0` here.
        let address = said.text(&["pci", "pci_bus_id"]).unwrap().to_lowercase();
        assert_eq!(gpu.pci_bus_id, address[4..]);
        assert_eq!(gpu.driver_version, report.text("driver_version"));
        assert_eq!(
            gpu.cuda_version.as_deref(),
            Some(report.text("cuda_version"))
        );
        let minor = said.text(&["minor_number"]).unwrap();
        assert_eq!(found.nodes, [format!("/dev/nvidia{minor}")]);
        let mig = said.text(&["mig_mode", "current_mig"]);
        assert_eq!(
            gpu.mig.as_ref().map(|mig| mig.enabled),
            mig.map(|mode| mode == "Enabled")
        );
        println!("{gpu:?}");
    }
}

#[test]
fn library_and_tool_list_the_same() {
    let asking = Asking {
        tool: None,
        sees_processes: true,
    };
    let tool = NvidiaSmi::open(&asking);
    let mut tool = tool.unwrap_or_else(|why| panic!("these tests need nvidia-smi: {why}"));
    let by_tool = tool.inventory().unwrap();
    let by_library = probe().inventory().unwrap();
    // Links, partitions and CUDA's version only the library tells.
    let common = |found: &Found| {
        let mut found = found.clone();
        found.nodes.clear();
        found.gpu.links.clear();
        found.gpu.cuda_version = None;
        // The tool rounds.
        found.gpu.memory_bytes >>= 20;
        if let Some(mig) = &mut found.gpu.mig {
            mig.devices.clear();
        }
        found
    };
    let common = |gpus: Vec<Found>| gpus.iter().map(common).collect::<Vec<_>>();
    assert_eq!(common(by_tool), common(by_library));
}

#[tokio::test]
async fn health_is_ok() {
    let (watch, mut readings) = GpuWatch::start("nvidia", || Ok(probe()), Pace::default()).unwrap();
    let seen = readings.report.wait_for(|report| report.complete());
    let token = CancellationToken::new();
    tokio::select! {
        report = seen => {
            let report = report.unwrap();
            assert_eq!(report.probes[0].health, Health::Ok, "{:?}", report.probes);
            for found in &report.gpus {
                assert_eq!(found.gpu.health, Health::Ok, "{:?}", found.gpu.health_reasons);
            }
        }
        ended = watch.run(token) => panic!("{ended:?}"),
    }
}
