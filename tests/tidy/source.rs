//! The sources under test: their text, their syntax tree, and which module they are.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use proc_macro2::{TokenStream, TokenTree};
use syn::{Attribute, Item, Meta, spanned::Spanned};

/// One file under `src/`.
pub(crate) struct Source {
    /// From the root of the repository, with slashes.
    pub(crate) path: String,
    pub(crate) text: String,
    pub(crate) file: syn::File,
    code: BTreeSet<usize>,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let mut code = BTreeSet::new();
        code_lines(text.parse().unwrap(), &mut code);
        Self {
            code,
            path: path.to_owned(),
            text: text.to_owned(),
            file: syn::parse_file(text).unwrap_or_else(|error| panic!("{path}: {error}")),
        }
    }

    /// The module's path within the crate: `gpu::watch` for `src/gpu/watch.rs`, empty for `lib.rs`.
    pub(crate) fn module(&self) -> Vec<String> {
        let inner = self.path.trim_start_matches("src/").trim_end_matches(".rs");
        let parts = inner
            .split('/')
            .filter(|part| !matches!(*part, "lib" | "mod"));
        parts.map(str::to_owned).collect()
    }

    /// How many lines of code are between the braces of a block, counted as clippy does.
    pub(crate) fn length_of(&self, block: &syn::Block) -> usize {
        let span = block.span();
        let inner = span.start().line + 1..span.end().line;
        inner.filter(|line| self.code.contains(line)).count()
    }

    /// How many lines say something and belong to no test.
    pub(crate) fn length(&self) -> usize {
        let mut tests = BTreeSet::new();
        for item in &self.file.items {
            if is_test(attributes(item)) {
                tests.extend(item.span().start().line..=item.span().end().line);
            }
        }
        let lines = self.text.lines().enumerate();
        lines
            .filter(|(at, line)| !line.trim().is_empty() && !tests.contains(&(at + 1)))
            .count()
    }
}

/// The root of the repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file under `src/` that is not a file of tests only.
pub(crate) fn sources() -> Vec<Source> {
    let sources = all_sources();
    let tests: BTreeSet<_> = sources.iter().flat_map(test_files).collect();
    let kept = sources.into_iter();
    kept.filter(|source| !tests.contains(&source.module()))
        .collect()
}

/// The modules that this file declares for its tests, each a file of its own.
pub(crate) fn test_files(source: &Source) -> Vec<Vec<String>> {
    let items = source.file.items.iter();
    let declared = items.filter_map(|item| match item {
        Item::Mod(item) if item.content.is_none() && is_test(&item.attrs) => {
            let mut module = source.module();
            module.push(item.ident.to_string());
            Some(module)
        }
        _ => None,
    });
    declared.collect()
}

fn all_sources() -> Vec<Source> {
    let files = files_below(&root().join("src")).into_iter();
    let rust = files.filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    rust.map(|path| Source::new(&relative(&path), &fs::read_to_string(&path).unwrap()))
        .collect()
}

/// All files below a folder, in order, but what is built and what git keeps for itself.
pub(crate) fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| !matches!(relative(path).as_str(), "target" | ".git"))
        .collect();
    entries.sort();
    let below = |path: PathBuf| {
        if path.is_dir() {
            files_below(&path)
        } else {
            vec![path]
        }
    };
    entries.into_iter().flat_map(below).collect()
}

/// A path as it is written in the repository.
pub(crate) fn relative(path: &Path) -> String {
    let inner = path.strip_prefix(root()).unwrap_or(path);
    inner.display().to_string()
}

/// Whether something exists in tests only.
pub(crate) fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) => attribute.path().is_ident("cfg") && list.tokens.to_string() == "test",
        _ => false,
    })
}

/// An item's attributes.
pub(crate) fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// The lines with code on them, those of comments and blank ones left out.
fn code_lines(tokens: TokenStream, lines: &mut BTreeSet<usize>) {
    for token in tokens {
        if let TokenTree::Group(group) = token {
            lines.insert(group.span_open().start().line);
            lines.insert(group.span_close().end().line);
            code_lines(group.stream(), lines);
        } else {
            lines.extend(token.span().start().line..=token.span().end().line);
        }
    }
}
