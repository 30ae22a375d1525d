//! The rules on Rust sources. The tables are the architecture; a new module needs a place in
//! `LAYERS`, and one that decides something belongs in `PURE`.

use std::fmt;

use syn::{
    Block, ImplItemFn, Item, ItemFn, TraitItemFn,
    visit::{self, Visit},
};

use crate::{
    names::names,
    source::{Source, attributes, is_test},
};

/// Modules that decide and do nothing. `::*` takes in what is below.
const PURE: &[&str] = &[
    "ids",
    "clock",
    "protocol::*",
    "instance::*",
    "image::*",
    "policy::*",
    "access::*",
    "gpu",
    "gpu::affinity",
    "gpu::assign",
    "gpu::nvidia_smi::parse",
    "gpu::health",
    "gpu::occupancy",
    "gpu::quarantine",
    "gpu::ward::*",
    "gpu::xid",
    "runtime",
    "runtime::error",
    "runtime::gpus",
    "session::backoff",
    "session::frames",
    "session::journal",
    "session::limits",
    "session::liveness",
    "session::outbox",
    "session::told",
    "telemetry::checks",
    "api::auth::claims",
    "api::auth::replay",
    "api::auth::strict",
    "api::auth::token",
    "api::limits",
    "api::openapi",
    "api::short",
    "dev::delivery",
    "dev::duties",
    "dev::records",
    "dev::state::*",
];

/// What a pure module never names: the world outside, the time, chance and the environment.
const IMPURE: &[&str] = &[
    "tokio",
    "tokio_util",
    "bollard",
    "axum",
    "tungstenite",
    "tokio_tungstenite",
    "nvml_wrapper",
    "rustix",
    "rustls",
    "rand",
    "uuid",
    "config",
    "std::env",
    "std::fs",
    "std::process",
    "std::thread",
    "std::net::TcpStream",
    "std::net::TcpListener",
    "std::net::UdpSocket",
    "std::os::unix::net",
    "std::time::Instant",
    "std::time::SystemTime",
    "jiff::Timestamp::now",
    "jiff::Zoned::now",
    "crate::clock::now",
    "crate::blocking",
];

/// The one function in a pure module that may read a clock: the shell calls it.
const THE_CLOCK: (&str, &str) = ("clock", "now");

/// Crates that have a place of their own, and where that is.
const CONFINED: &[(&str, &[&str])] = &[
    ("bollard", &["runtime::*"]),
    ("nvml_wrapper", &["gpu::nvml::*"]),
    ("cudarc", &["gpu::wipe::*"]),
    ("tungstenite", &["session::*", "dev::*", "api::ws"]),
    ("tokio_tungstenite", &["session::*", "dev::*", "api::ws"]),
    ("axum", &["api::*", "dev::*"]),
    ("jsonwebtoken", &["api::*", "dev::*", "session::bearer"]),
    ("aws_lc_rs", &["session::authority", "dev::*"]),
    ("config", &["config::*"]),
    ("yaml_rust2", &["runtime::docker::cdi"]),
    // The adapters behind the two seams are chosen where the program is put together.
    (
        "crate::runtime::docker",
        &["runtime::docker::*", "agent::*", "cli::*"],
    ),
    (
        "crate::gpu::nvml",
        &["gpu::nvml::*", "gpu::nvidia", "gpu::probes", "cli::gpu"],
    ),
];

/// Who may name whom: a module names modules of earlier lines, and its own relatives.
const LAYERS: &[&[&str]] = &[
    &["ids", "clock", "blocking"],
    &["protocol"],
    &["gpu", "runtime"],
    &["image", "config"],
    &["policy", "access"],
    &["instance"],
    &[
        "gpu::amd",
        "gpu::nvidia",
        "gpu::nvidia_smi",
        "gpu::nvml",
        "gpu::probes",
        "gpu::sysfs",
        "gpu::tpu",
        "gpu::watch",
        "gpu::wipe",
        "runtime::docker",
        "host",
        "storage",
    ],
    &["driver", "stream", "telemetry"],
    &["session", "gateway"],
    &["api"],
    &["agent"],
    &["dev"],
    &["cli"],
    &["main"],
];

/// All that a reference server has to go by is the protocol, as any other server's author.
const DEV_KNOWS: &[&str] = &["ids", "clock", "protocol", "dev"];

/// Lines of a file that say something and are not tests.
const MAX_FILE: usize = 400;

/// Lines of code of a function.
const MAX_FUNCTION: usize = 60;

/// Something that is not as it has to be.
#[derive(Debug)]
pub(crate) struct Violation {
    place: String,
    line: usize,
    what: String,
}

impl Violation {
    pub(crate) fn new(place: &str, line: usize, what: impl Into<String>) -> Self {
        Self {
            place: place.to_owned(),
            line,
            what: what.into(),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.place, self.line, self.what)
    }
}

/// All that is wrong with one file.
pub(crate) fn check(source: &Source) -> Vec<Violation> {
    let mut violations = Vec::new();
    shape(source, &mut violations);
    functions(source, &mut violations);
    purity(source, &mut violations);
    confinement(source, &mut violations);
    direction(source, &mut violations);
    violations
}

fn shape(source: &Source, violations: &mut Vec<Violation>) {
    let mut wrong = |what: String| violations.push(Violation::new(&source.path, 1, what));
    if source.path.ends_with("/mod.rs") {
        wrong("module files are named after their module, not mod.rs".to_owned());
    }
    let docs = source.file.attrs.iter();
    if !docs
        .into_iter()
        .any(|attribute| attribute.path().is_ident("doc"))
    {
        wrong("no `//!` says what this module owns and what it may not do".to_owned());
    }
    let length = source.length();
    if length > MAX_FILE {
        wrong(format!(
            "{length} lines without tests; {MAX_FILE} are allowed"
        ));
    }
}

fn functions(source: &Source, violations: &mut Vec<Violation>) {
    let mut functions = Functions { source, violations };
    functions.visit_file(&source.file);
}

struct Functions<'a> {
    source: &'a Source,
    violations: &'a mut Vec<Violation>,
}

impl Functions<'_> {
    fn measure(&mut self, name: &syn::Ident, block: &Block) {
        let lines = self.source.length_of(block);
        if lines > MAX_FUNCTION {
            let what = format!("`{name}` has {lines} lines; {MAX_FUNCTION} are allowed");
            let line = name.span().start().line;
            self.violations
                .push(Violation::new(&self.source.path, line, what));
        }
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_test(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        self.measure(&item.sig.ident, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast ImplItemFn) {
        self.measure(&item.sig.ident, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast TraitItemFn) {
        if let Some(block) = &item.default {
            self.measure(&item.sig.ident, block);
        }
        visit::visit_trait_item_fn(self, item);
    }
}

fn purity(source: &Source, violations: &mut Vec<Violation>) {
    let module = source.module().join("::");
    if !PURE.iter().any(|pure| covers(pure, &module)) {
        return;
    }
    for name in names(source) {
        let inside = (
            module.as_str(),
            name.function.as_deref().unwrap_or_default(),
        );
        let Some(impure) = IMPURE.iter().find(|impure| name.is_within(impure)) else {
            continue;
        };
        if inside != THE_CLOCK {
            let what = format!("`{module}` is pure and names `{impure}`");
            violations.push(Violation::new(&source.path, name.line, what));
        }
    }
}

fn confinement(source: &Source, violations: &mut Vec<Violation>) {
    let module = source.module().join("::");
    for name in names(source) {
        for (confined, places) in CONFINED {
            if name.is_within(confined) && !places.iter().any(|place| covers(place, &module)) {
                let places = places.join(", ");
                let what = format!("`{confined}` is named outside {places}");
                violations.push(Violation::new(&source.path, name.line, what));
            }
        }
    }
}

fn direction(source: &Source, violations: &mut Vec<Violation>) {
    let module = source.module();
    // The crate's root only lists the modules.
    let Some(family) = module.first() else {
        return;
    };
    let Some(layer) = layer_of(&module) else {
        let what = format!(
            "`{}` has no place in the table of layers",
            module.join("::")
        );
        violations.push(Violation::new(&source.path, 1, what));
        return;
    };
    for name in names(source) {
        let Some(("crate", named)) = name.path.split_first().map(|(a, b)| (a.as_str(), b)) else {
            continue;
        };
        let Some(other) = named.first().filter(|other| *other != family) else {
            continue;
        };
        // What is not a module is something that the root hands on.
        let Some(theirs) = layer_of(named) else {
            continue;
        };
        let allowed = match family.as_str() {
            "dev" => DEV_KNOWS.contains(&other.as_str()),
            _ => theirs < layer,
        };
        if !allowed {
            let what = format!("`{}` may not name `{other}`", module.join("::"));
            violations.push(Violation::new(&source.path, name.line, what));
        }
    }
}

/// Whether a code map goes from the bottom up, as the layers do.
pub(crate) fn map_in_order(place: &str, map: &[(usize, Vec<String>)]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut reached = 0;
    for (line, modules) in map {
        for module in modules {
            let parts: Vec<_> = module.split("::").map(str::to_owned).collect();
            match layer_of(&parts) {
                Some(layer) if layer >= reached => reached = layer,
                _ => {
                    let what = format!("`{module}` is not where the layers have it");
                    violations.push(Violation::new(place, *line, what));
                }
            }
        }
    }
    violations
}

/// Where a module stands: by its own entry, else by that of the nearest one above it.
fn layer_of(path: &[String]) -> Option<usize> {
    let above = (1..=path.len())
        .rev()
        .filter_map(|length| path.get(..length));
    above.map(|parts| parts.join("::")).find_map(|module| {
        LAYERS
            .iter()
            .position(|layer| layer.contains(&module.as_str()))
    })
}

/// Whether an entry of a table means this module.
fn covers(entry: &str, module: &str) -> bool {
    match entry.strip_suffix("::*") {
        Some(top) => module
            .strip_prefix(top)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with("::")),
        None => module == entry,
    }
}
