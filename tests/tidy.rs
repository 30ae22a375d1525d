//! The architecture, run as tests: who may name what, how long things may be, what no file says.
//! Each rule is shown to fail on a source that breaks it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot read the repository fails"
)]
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "syntax trees have more kinds of nodes than the rules speak of"
)]

#[path = "tidy/names.rs"]
mod names;
#[path = "tidy/rules.rs"]
mod rules;
#[path = "tidy/source.rs"]
mod source;
#[path = "tidy/text.rs"]
mod text;

use std::collections::BTreeSet;

use rules::Violation;
use source::Source;

#[test]
fn the_sources_are_tidy() {
    let sources = source::sources();
    assert!(sources.len() > 10, "the sources were not found");
    none(sources.iter().flat_map(rules::check).collect());
}

#[test]
fn actions_are_pinned_to_commits() {
    let texts = text::texts().into_iter();
    let workflows: Vec<_> = texts
        .filter(|(path, _)| path.starts_with(".github/workflows/"))
        .collect();
    assert!(!workflows.is_empty(), "the workflows were not found");
    let check = |(path, text): &(String, String)| text::unpinned_actions(path, text);
    none(workflows.iter().flat_map(check).collect());
}

#[test]
fn no_file_names_a_package_registry() {
    let texts = text::texts().into_iter();
    let ours = texts.filter(|(path, _)| !path.ends_with("Cargo.lock"));
    none(
        ours.flat_map(|(path, text)| text::package_registries(&path, &text))
            .collect(),
    );
}

#[test]
fn documents_name_paths_that_exist() {
    let texts = text::texts().into_iter();
    let documents = texts.filter(|(path, _)| path.ends_with(".md"));
    none(
        documents
            .flat_map(|(path, text)| text::missing_paths(&path, &text))
            .collect(),
    );
}

#[test]
fn the_architecture_page_is_short_and_its_map_is_complete() {
    let page = std::fs::read_to_string(source::root().join("ARCHITECTURE.md")).unwrap();
    assert!(page.lines().count() <= 150, "nobody reads more");
    let map = text::code_map(&page);
    none(rules::map_in_order("ARCHITECTURE.md", &map));
    let mapped: BTreeSet<_> = map
        .iter()
        .flat_map(|(_, modules)| modules.clone())
        .collect();
    let tops = |module: &str| module.split("::").next().unwrap().to_owned();
    let mapped: BTreeSet<_> = mapped.iter().map(|module| tops(module)).collect();
    let sources = source::sources();
    let modules = sources
        .iter()
        .filter_map(|source| source.module().first().cloned());
    let modules: BTreeSet<_> = modules.filter(|module| module != "main").collect();
    assert_eq!(mapped, modules, "on the left what the page names");
}

fn none(violations: Vec<Violation>) {
    let lines: Vec<_> = violations.iter().map(ToString::to_string).collect();
    assert!(lines.is_empty(), "\n{}\n", lines.join("\n"));
}

/// Each rule against a source that breaks it, and one that only looks as if.
mod planted {
    use super::*;

    fn refused(path: &str, code: &str) -> String {
        let text = format!("//! Planted.\n{code}");
        let violations = rules::check(&Source::new(path, &text));
        let lines: Vec<_> = violations.iter().map(ToString::to_string).collect();
        lines.join("\n")
    }

    #[track_caller]
    fn breaks(path: &str, code: &str, why: &str) {
        let refused = refused(path, code);
        assert!(refused.contains(why), "{code:?} in {path}: {refused:?}");
    }

    #[track_caller]
    fn keeps(path: &str, code: &str) {
        assert_eq!(refused(path, code), "", "{code:?} in {path}");
    }

    #[test]
    fn a_pure_module_may_not_reach_out_by_any_spelling() {
        for code in [
            "use tokio::sync::mpsc;",
            "use std::{fmt, time::{Duration, Instant}};",
            "use std::time as t; fn f() { t::Instant::now(); }",
            "use std::time::*;",
            "use ::rand::random;",
            "fn f() { std::env::args(); }",
            "fn f() { println!(\"{}\", uuid::Uuid::new_v4()); }",
            "use jiff::Timestamp; fn f() { Timestamp::now(); }",
            "use crate::clock; fn f() { clock::now(); }",
            "use super::super::clock::now;",
            "use rental_agent::clock::now;",
            "struct S(bollard::Docker);",
            "impl axum::Handler for S {}",
            "extern crate tokio;",
            "mod inner { use std::fs; }",
            "#[derive(tokio::Magic)] struct S;",
            "macro_rules! m { () => { std::thread::spawn(f) } }",
        ] {
            breaks("src/instance/registry.rs", code, "is pure and names");
        }
    }

    #[test]
    fn a_pure_module_may_use_what_only_looks_impure() {
        for code in [
            "use std::{collections::BTreeMap, time::Duration};",
            "// tokio::spawn\n/// `std::fs`\nfn f() { let tokio = \"tokio::spawn\"; }",
            "fn f(config: u8) { let x = config; }",
            "use std::net::IpAddr; fn f() { IpAddr::from([0; 4]); }",
            "use jiff::Timestamp; fn f(t: Timestamp) { t.as_second(); }",
            "#[cfg(test)] mod tests { use std::fs; use tokio::time; }",
        ] {
            keeps("src/instance/registry.rs", code);
        }
        keeps("src/clock.rs", "pub fn now() { jiff::Timestamp::now(); }");
        breaks(
            "src/clock.rs",
            "pub fn later() { jiff::Timestamp::now(); }",
            "is pure",
        );
    }

    #[test]
    fn a_crate_is_named_in_its_own_place_only() {
        for (good, bad, code) in [
            (
                "src/runtime/docker.rs",
                "src/agent.rs",
                "use bollard::Docker;",
            ),
            (
                "src/gpu/nvml.rs",
                "src/gpu/watch.rs",
                "use nvml_wrapper::Nvml;",
            ),
            (
                "src/session/dial.rs",
                "src/driver.rs",
                "use tokio_tungstenite::connect_async;",
            ),
            (
                "src/dev/server.rs",
                "src/cli/check.rs",
                "use tungstenite::Message;",
            ),
            ("src/api/routes.rs", "src/agent.rs", "use axum::Router;"),
            (
                "src/session/authority.rs",
                "src/protocol/signed.rs",
                "use aws_lc_rs::signature::ED25519;",
            ),
            ("src/api.rs", "src/session.rs", "use jsonwebtoken::decode;"),
            (
                "src/session/bearer.rs",
                "src/session/connect.rs",
                "use jsonwebtoken::encode;",
            ),
            (
                "src/config/load.rs",
                "src/cli.rs",
                "fn f() { config::Config::builder(); }",
            ),
            (
                "src/agent.rs",
                "src/driver.rs",
                "use crate::runtime::docker::Docker;",
            ),
            (
                "src/gpu/nvidia.rs",
                "src/agent.rs",
                "use crate::gpu::nvml::NvmlProbe;",
            ),
        ] {
            keeps(good, code);
            breaks(bad, code, "is named outside");
        }
        keeps(
            "src/cli.rs",
            "use crate::config; fn f() { config::Config::load(); }",
        );
    }

    #[test]
    fn dependencies_have_one_direction() {
        for (path, code) in [
            ("src/ids.rs", "use crate::protocol::Message;"),
            ("src/protocol/spec.rs", "use crate::instance::Instance;"),
            ("src/gpu.rs", "use crate::instance::publish::Snapshot;"),
            (
                "src/instance/registry.rs",
                "use crate::gpu::watch::GpuReport;",
            ),
            ("src/instance/registry.rs", "use crate::driver::SessionNo;"),
            ("src/driver.rs", "use crate::session::Session;"),
            ("src/driver.rs", "fn f(t: crate::telemetry::Telemetry) {}"),
            ("src/telemetry.rs", "use crate::{agent, clock};"),
            ("src/dev/server.rs", "use crate::config::Config;"),
            ("src/dev/server.rs", "use crate::instance::publish::Event;"),
            ("src/session.rs", "use crate::gateway::Gateway;"),
        ] {
            breaks(path, code, "may not name");
        }
        for (path, code) in [
            (
                "src/instance/spec.rs",
                "use crate::{ids::InstanceId, protocol::spec, policy};",
            ),
            (
                "src/session/pump.rs",
                "use crate::driver::FromServer; use super::Session;",
            ),
            ("src/cli/dev.rs", "use crate::dev::Server;"),
            (
                "src/dev/link.rs",
                "use crate::{clock, ids::Epoch, protocol::Message};",
            ),
            ("src/main.rs", "fn main() { rental_agent::cli::main(); }"),
        ] {
            keeps(path, code);
        }
    }

    #[test]
    fn a_new_module_needs_a_place() {
        breaks("src/helpers.rs", "", "has no place in the table of layers");
    }

    #[test]
    fn a_file_is_of_limited_length_without_its_tests() {
        let item = "const A: u8 = 0;\n\n";
        keeps("src/cli.rs", &item.repeat(399));
        breaks("src/cli.rs", &item.repeat(400), "lines without tests");
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", item.repeat(500));
        keeps("src/cli.rs", &tests);
    }

    #[test]
    fn a_function_is_of_limited_length_without_its_comments() {
        let body = |lines: usize| "f();\n// why\n\n".repeat(lines);
        let function = |lines| format!("fn f() {{\n{}}}", body(lines));
        keeps("src/cli.rs", &function(60));
        breaks("src/cli.rs", &function(61), "`f` has 61 lines");
        breaks(
            "src/cli.rs",
            &format!("impl S {{ {} }}", function(61)),
            "`f` has 61",
        );
        breaks(
            "src/cli.rs",
            &format!("trait T {{ {} }}", function(61)),
            "`f` has 61",
        );
        keeps(
            "src/cli.rs",
            &format!("#[cfg(test)] mod tests {{ {} }}", function(61)),
        );
    }

    #[test]
    fn a_file_of_tests_is_known_by_its_declaration() {
        let code = "#[cfg(test)]\nmod tests;\n#[cfg(test)]\nmod inline { }\nmod real;";
        let declared = source::test_files(&Source::new("src/cli/run.rs", code));
        assert_eq!(declared, [["cli", "run", "tests"]]);
    }

    #[test]
    fn a_module_says_what_it_is_in_a_file_of_its_name() {
        breaks("src/cli/mod.rs", "", "not mod.rs");
        let bare = rules::check(&Source::new(
            "src/cli.rs",
            "/// Not of the module.\nfn f() {}",
        ));
        assert!(bare[0].to_string().contains("no `//!`"));
    }

    #[test]
    fn an_action_by_its_tag_is_refused() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let workflow = format!(
            "- uses: actions/checkout@v4\n- uses: actions/checkout@{commit} # v4\n  uses: \"a/b@main\"\n- uses: ./local\n"
        );
        let found = text::unpinned_actions("w.yml", &workflow);
        let lines: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with("w.yml:1:") && lines[1].starts_with("w.yml:3:"));
    }

    #[test]
    fn a_package_registry_is_found_by_its_host() {
        let text = ["fine", &format!("see https://{}{}/x", "pypi", ".org")].join("\n");
        assert_eq!(text::package_registries("a.md", &text).len(), 1);
    }

    #[test]
    fn a_code_map_in_another_order_than_the_layers_is_refused() {
        let page = "# A\n| `x` |\n## Code map\n\n| modules | what |\n|---|---|\n| `gpu`, `runtime` | a `b` |\n| `ids` | c |\n## Next\n| `y` |\n";
        let map = text::code_map(page);
        assert_eq!(map[0].1, ["gpu", "runtime"]);
        assert_eq!(map.len(), 2);
        assert_eq!(rules::map_in_order("a.md", &map).len(), 1);
    }

    #[test]
    fn a_document_that_names_a_missing_file_is_found() {
        let text = "`src/lib.rs` and (src/ids.rs), `src/*.rs`\n`src/nowhere.rs`, [x](docs/none.md)";
        assert_eq!(text::missing_paths("a.md", text).len(), 2);
    }
}
