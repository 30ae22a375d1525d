//! The rules on files that are not Rust: workflows, documents, and what no file may name.

use std::fs;

use crate::{
    rules::Violation,
    source::{files_below, relative, root},
};

/// Every text file of the repository, by its path.
pub(crate) fn texts() -> Vec<(String, String)> {
    let files = files_below(root()).into_iter();
    files
        .filter_map(|path| Some((relative(&path), fs::read_to_string(&path).ok()?)))
        .collect()
}

/// A tag can be moved to other code by whoever owns the action; a commit cannot.
pub(crate) fn unpinned_actions(path: &str, text: &str) -> Vec<Violation> {
    let lines = (1..).zip(text.lines());
    lines
        .filter_map(|(line, content)| {
            let content = content.trim_start().trim_start_matches("- ");
            let action = content.strip_prefix("uses:")?;
            let action = action.split('#').next().unwrap_or_default();
            let action = action.trim().trim_matches(['"', '\'']);
            (!action.starts_with("./") && !is_pinned(action)).then(|| {
                Violation::new(path, line, format!("`{action}` is not pinned to a commit"))
            })
        })
        .collect()
}

fn is_pinned(action: &str) -> bool {
    action.rsplit_once('@').is_some_and(|(_, commit)| {
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        commit.len() == 40 && commit.bytes().all(hex)
    })
}

/// Where packages come from is for each machine to say: a name in a file binds everybody to it.
pub(crate) fn package_registries(path: &str, text: &str) -> Vec<Violation> {
    // In two parts, so that this file does not name them.
    let hosts = [
        ("crates", ".io"),
        ("pypi", ".org"),
        ("pythonhosted", ".org"),
        ("npmjs", ".org"),
        ("yarnpkg", ".com"),
        ("proxy.golang", ".org"),
        ("rubygems", ".org"),
        ("deb.debian", ".org"),
        ("archive.ubuntu", ".com"),
    ];
    let hosts = hosts.map(|(name, end)| format!("{name}{end}"));
    let mut violations = Vec::new();
    for (line, content) in (1..).zip(text.lines()) {
        for host in hosts.iter().filter(|host| content.contains(host.as_str())) {
            violations.push(Violation::new(path, line, format!("names {host}")));
        }
    }
    violations
}

/// Paths of this repository that a document names, in backticks or as a link, and that do not exist.
pub(crate) fn missing_paths(path: &str, text: &str) -> Vec<Violation> {
    let tops = [
        "src/", "tests/", "scripts/", "docs/", "schemas/", ".ci/", ".github/", ".config/",
    ];
    let mut violations = Vec::new();
    for (line, content) in (1..).zip(text.lines()) {
        let words = content.split(['`', '(', ')', ' ', ',', '"', '#', '|']);
        for word in words {
            let word = word.trim_end_matches(['.', ':', ';']);
            let names_a_path = tops.iter().any(|top| word.starts_with(top))
                && !word.contains(['*', '{', '<', '…']);
            if names_a_path && !root().join(word).exists() {
                violations.push(Violation::new(
                    path,
                    line,
                    format!("`{word}` does not exist"),
                ));
            }
        }
    }
    violations
}

/// The first column of the table under "Code map": by line, the modules in backticks.
pub(crate) fn code_map(page: &str) -> Vec<(usize, Vec<String>)> {
    let lines = (1..).zip(page.lines());
    let section = lines
        .skip_while(|(_, line)| *line != "## Code map")
        .skip(1)
        .take_while(|(_, line)| !line.starts_with("## "));
    let rows = section.filter_map(|(at, line)| {
        let first = line.strip_prefix("| `")?.split(" |").next()?;
        let names = first.split(',').map(|name| name.trim().replace('`', ""));
        Some((at, names.collect()))
    });
    rows.collect()
}
