//! What `nvidia-smi -q -x` prints, read as far as these tests need it: elements by their path.

use std::process::Command;

/// All of it.
pub(crate) struct Report(String);

/// One GPU's part of it.
pub(crate) struct GpuReport<'a>(&'a str);

impl Report {
    pub(crate) fn ask() -> Result<Self, String> {
        let output = Command::new("nvidia-smi").args(["-q", "-x"]).output();
        let output = output.map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        match output.status.success() {
            true => Ok(Self(text)),
            false => Err(text),
        }
    }

    /// Of the host.
    pub(crate) fn text(&self, name: &str) -> &str {
        inner(&self.0, name).unwrap_or_else(|| panic!("nvidia-smi has no {name}"))
    }

    pub(crate) fn gpus(&self) -> Vec<GpuReport<'_>> {
        let parts = self.0.split("<gpu id=").skip(1);
        parts
            .map(|part| GpuReport(part.split("</gpu>").next().unwrap_or(part)))
            .collect()
    }
}

impl<'a> GpuReport<'a> {
    /// The element at the end of this path; `None` where there is none, and where it is `N/A`.
    pub(crate) fn text(&self, path: &[&str]) -> Option<&'a str> {
        let found = path
            .iter()
            .try_fold(self.0, |part, name| inner(part, name))?;
        let text = found.trim();
        (!text.starts_with("N/A")).then_some(text)
    }

    /// Its number, without the unit.
    pub(crate) fn number(&self, path: &[&str]) -> Option<f64> {
        let text = self.text(path)?;
        text.split([' ', 'x']).next()?.parse().ok()
    }

    /// The numbers of the processes that are on it.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let processes = inner(self.0, "processes").unwrap_or_default();
        let pids = processes.split("<pid>").skip(1);
        pids.filter_map(|rest| rest.split('<').next()?.parse().ok())
            .collect()
    }
}

fn inner<'a>(part: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = part.split_once(&format!("<{name}>"))?;
    Some(rest.split_once(&format!("</{name}>"))?.0)
}

#[test]
fn elements_are_found_by_their_path() {
    let report = Report(
        "<driver_version>1</driver_version><gpu id=\"00000000:01:00.0\"><uuid>GPU-a</uuid>\
         <fb_memory_usage><total>80 MiB</total></fb_memory_usage><fan_speed>N/A</fan_speed>\
         <processes><process_info><pid>7</pid></process_info></processes></gpu>"
            .to_owned(),
    );
    assert_eq!(report.text("driver_version"), "1");
    let gpu = &report.gpus()[0];
    assert_eq!(gpu.text(&["uuid"]), Some("GPU-a"));
    assert_eq!(gpu.number(&["fb_memory_usage", "total"]), Some(80.0));
    assert_eq!(gpu.text(&["fan_speed"]), None);
    assert_eq!(gpu.pids(), [7]);
}
