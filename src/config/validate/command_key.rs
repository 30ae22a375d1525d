//! `policy.require_signed_commands`: whose commands are taken.

use std::path::Path;

use rustls::pki_types::{SubjectPublicKeyInfoDer, pem::PemObject};

use super::{
    super::{CommandKey, fault::Faults, load::mode_of_file, raw},
    absolute,
};

const KEY: &str = "policy.command_public_key_file";

/// What comes before the key in the DER of an Ed25519 public key: RFC 8410.
const PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// The key in force. One that is configured and not required is checked all the same.
pub(super) fn check(raw: &raw::Policy, faults: &mut Faults) -> Option<CommandKey> {
    let required = raw.require_signed_commands;
    let Some(path) = &raw.command_public_key_file else {
        if required {
            let remedy = "name the file of the public key, or leave require_signed_commands unset";
            faults.missing(KEY, remedy);
        }
        return None;
    };
    let key = read(path, faults)?;
    required.then_some(key)
}

fn read(path: &Path, faults: &mut Faults) -> Option<CommandKey> {
    if !absolute(KEY, path, faults) {
        return None;
    }
    let shown = path.display().to_string();
    if let Some(mode) = mode_of_file(path).filter(|mode| mode & 0o002 != 0) {
        let reason = format!("can be written by every user of this host (mode {mode:04o})");
        faults.shown(KEY, &shown, reason, format!("chmod o-w {shown}"));
        return None;
    }
    let found = SubjectPublicKeyInfoDer::from_pem_file(path);
    let key = found.as_ref().ok().and_then(|der| {
        let raw = der.as_ref().strip_prefix(&PREFIX)?;
        raw.try_into().ok().map(CommandKey)
    });
    if key.is_none() {
        let remedy = "name the file that `openssl pkey -pubout` makes of an Ed25519 key";
        faults.shown(KEY, &shown, "holds no Ed25519 public key in PEM", remedy);
    }
    key
}
