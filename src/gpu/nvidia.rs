//! NVIDIA's GPUs: by the driver's library, and by nvidia-smi where that cannot be loaded.

use super::{
    Found, GpuProbe, ProbeError, Reading, nvidia_smi, nvidia_smi::NvidiaSmi, nvml, nvml::NvmlProbe,
};

/// How the driver is asked.
#[derive(Debug, Clone, Default)]
pub struct Asking {
    /// By its library.
    pub library: nvml::Asking,
    /// By its tool.
    pub tool: nvidia_smi::Asking,
}

/// What answers.
#[derive(Debug)]
pub struct Nvidia {
    asking: Asking,
    by: By,
}

#[derive(Debug)]
enum By {
    Library(Box<NvmlProbe>),
    Tool(NvidiaSmi),
}

impl Nvidia {
    /// Finds out. A library that answers with an error has answered: the tool would only say the
    /// same.
    ///
    /// # Errors
    /// When neither is there, or the one that is does not answer as it should.
    pub fn open(asking: &Asking) -> Result<Self, ProbeError> {
        let by = match NvmlProbe::open(&asking.library) {
            Ok(probe) => By::Library(Box::new(probe)),
            Err(ProbeError::Absent(why)) => match NvidiaSmi::open(&asking.tool) {
                Ok(tool) => By::Tool(tool),
                Err(ProbeError::Absent(also)) => {
                    return Err(ProbeError::Absent(format!("{why}; {also}")));
                }
                Err(error) => return Err(error),
            },
            Err(ProbeError::Unloadable(why)) => match NvidiaSmi::open(&asking.tool) {
                Ok(tool) => By::Tool(tool),
                // The library is the one to be repaired.
                Err(_) => return Err(ProbeError::Unloadable(why)),
            },
            Err(error @ ProbeError::Failed(_)) => return Err(error),
        };
        Ok(Self {
            asking: asking.clone(),
            by,
        })
    }
}

impl GpuProbe for Nvidia {
    fn inventory(&mut self) -> Result<Vec<Found>, ProbeError> {
        match &mut self.by {
            By::Library(library) => library.inventory(),
            // It tells more, if it has come by now.
            By::Tool(tool) => match NvmlProbe::open(&self.asking.library) {
                Ok(mut library) => {
                    let gpus = library.inventory()?;
                    self.by = By::Library(Box::new(library));
                    Ok(gpus)
                }
                Err(_) => tool.inventory(),
            },
        }
    }

    fn sample(&mut self) -> Result<Vec<Reading>, ProbeError> {
        match &mut self.by {
            By::Library(library) => library.sample(),
            By::Tool(tool) => tool.sample(),
        }
    }

    fn trouble(&self) -> Option<String> {
        match &self.by {
            By::Library(library) => library.trouble(),
            By::Tool(tool) => tool.trouble(),
        }
    }
}
