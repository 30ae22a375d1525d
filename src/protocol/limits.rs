//! The limits of what is said on the wire: one place for the checks and for the schemas. Patterns
//! are for the schemas; a test holds them equal to the code that reads. Pure.

/// Integers on the wire stay below 2^53, so that every reader's numbers are exact.
pub const MAX_INTEGER: u64 = (1 << 53) - 1;

/// An image reference is at most this long, in bytes.
pub const MAX_REFERENCE_BYTES: usize = 512;
/// Of entrypoint and of command.
pub const MAX_ARGUMENTS: usize = 1024;
/// Of entrypoint and command together; far below the kernel's own limit.
pub const MAX_ARGUMENT_BYTES: usize = 64 * 1024;
/// Variables of the environment.
pub const MAX_ENV: usize = 1024;
/// Of all names and values together.
pub const MAX_ENV_BYTES: usize = 64 * 1024;

/// GPUs of one rental.
pub const MAX_GPUS: usize = 64;
/// Less than a hundredth of a core no engine accepts.
pub const MIN_CPUS: f64 = 0.01;
/// Cores of one rental.
pub const MAX_CPUS: f64 = 4096.0;
/// Less memory no engine accepts.
pub const MIN_MEMORY_BYTES: u64 = 6 * 1024 * 1024;
/// Published ports of one rental.
pub const MAX_PORTS: usize = 64;
/// A port's name.
pub const MAX_PORT_NAME_BYTES: usize = 63;
/// Between TERM and KILL.
pub const MAX_GRACE_S: f64 = 600.0;

/// The server's own labels.
pub const MAX_LABELS: usize = 64;
/// A label's key.
pub const MAX_LABEL_KEY_BYTES: usize = 128;
/// A label's value.
pub const MAX_LABEL_VALUE_BYTES: usize = 1024;

/// For a registry.
pub const MAX_USERNAME_BYTES: usize = 4096;
/// For a registry: a password or a token.
pub const MAX_SECRET_BYTES: usize = 16 * 1024;

/// An error's message, in characters.
pub const MAX_ERROR_CHARS: usize = 1000;
/// The end of a tenant's output that a record keeps.
pub const MAX_LOG_TAIL_BYTES: usize = 4 * 1024;
/// A chunk of a command's output, before it is written as base64.
pub const MAX_OUTPUT_BYTES: usize = 64 * 1024;

/// No NUL.
pub const WITHOUT_NUL: &str = r"^[^\u0000]*$";
/// Neither a NUL nor a line break.
pub const ONE_LINE: &str = r"^[^\u0000\n\r]*$";
/// No control character.
pub const WITHOUT_CONTROL: &str = r"^[^\u0000-\u001f\u007f-\u009f]*$";
/// The name of a variable of the environment.
pub const ENV_NAME: &str = "^[A-Za-z_][A-Za-z0-9_]*$";
/// The name of a port.
pub const PORT_NAME: &str = "^[a-z0-9-]+$";
/// A label's key: no control character, and not one of the agent's own.
pub const LABEL_KEY: &str =
    r"^(?![Rr][Ee][Nn][Tt][Aa][Ll]-[Aa][Gg][Ee][Nn][Tt]\.)[^\u0000-\u001f\u007f-\u009f]*$";

/// An image reference, but for the lengths of its parts, the value of a port and what is in the
/// brackets of an IPv6 address. What stands before a slash and has a dot is a registry's host.
pub const REFERENCE: &str = concat!(
    "^(?![0-9a-f]{64}$)",
    // [host[:port]/]path, or a path on Docker Hub whose first part has no dot.
    r"(?:(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*",
    r"|\[[0-9A-Fa-f:.]+\])(?::[1-9][0-9]{0,4})?/",
    r"|[a-z0-9]+(?:(?:__|_|-+)[a-z0-9]+)*/)?",
    r"[a-z0-9]+(?:(?:\.|__|_|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|__|_|-+)[a-z0-9]+)*)*",
    "(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?",
    "(?:@(?:sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}))?$",
);
