//! Which repositories are private. An image that one tenant's credentials brought stays on the host;
//! the next tenant may not have it without asking the registry. Pure.
//!
//! That a repository was pulled from with credentials has to outlive the agent, and the engine is the
//! only store: an empty volume for each such repository says so, written before the pull begins.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::reference::Reference;
use crate::runtime::VolumeLabels;

/// How the names of these volumes begin. No instance's markers do: an instance id has no dot.
const PREFIX: &str = "rental-agent.private-image.";
const LABEL_REPOSITORY: &str = "rental-agent.private-image";

/// A repository with its registry, as it is told apart.
pub fn repository(image: &Reference) -> String {
    format!("{}/{}", image.registry(), image.repository())
}

/// The volume that says that a repository is private.
pub fn volume(repository: &str) -> VolumeLabels {
    let digest = Sha256::digest(repository.as_bytes());
    let name: String = digest
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    VolumeLabels {
        name: format!("{PREFIX}{name}"),
        labels: BTreeMap::from([
            ("rental-agent.schema".to_owned(), "1".to_owned()),
            (LABEL_REPOSITORY.to_owned(), repository.to_owned()),
        ]),
    }
}

/// The repository that a volume tells of, if it is one of these. One that has lost its labels is
/// made again at the next pull with credentials.
pub fn repository_of(volume: &VolumeLabels) -> Option<&str> {
    volume.name.strip_prefix(PREFIX)?;
    volume.labels.get(LABEL_REPOSITORY).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::marker::MarkerKind;

    #[test]
    fn a_private_repository_is_read_back_and_is_no_instance_s_marker() {
        let image: Reference = "registry.example:443/team/model:v1".parse().unwrap();
        let repository = repository(&image);
        let volume = volume(&repository);
        assert_eq!(repository_of(&volume), Some(repository.as_str()));
        assert_eq!(MarkerKind::of_volume(&volume.name), None);
    }
}
