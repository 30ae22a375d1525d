//! GPUs that are not there: a stand-in for the driver's library, which the agent loads, beside the
//! engine's stand-in for the vendor's hook.

use super::host::World;
use crate::fake_nvml::FakeNvml;

impl World {
    /// From its next start on the agent sees so many GPUs, as long as what is returned lives.
    pub(crate) fn with_gpus(&mut self, count: u32) -> FakeNvml {
        let fake = FakeNvml::with(&format!("gpus {count}\n"));
        let library = fake.library.to_str().unwrap();
        self.set_env("RENTAL_AGENT__GPU__NVML_LIBRARY", library);
        self.with_idle_gpus();
        fake
    }

    /// The stand-in's GPUs show 1 GiB in use while nobody is on them.
    pub(crate) fn with_idle_gpus(&mut self) {
        self.set_env("RENTAL_AGENT__GPU__IDLE_MEMORY_BYTES", "2147483648");
    }
}

/// The UUID of the stand-in's GPU with this number.
pub(crate) fn gpu_uuid(index: u32) -> String {
    format!("GPU-{index:08x}-0000-0000-0000-000000000000")
}
