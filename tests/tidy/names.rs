//! Which names a file uses, as whole paths. A search of the text would miss grouped imports, aliases
//! and what stands inside macros, and would find comments.

use std::collections::BTreeMap;

use proc_macro2::{TokenStream, TokenTree};
use syn::{
    ImplItemFn, Item, ItemFn, ItemMod, ItemUse, Macro, MetaList, Path, UseTree,
    spanned::Spanned,
    visit::{self, Visit},
};

use crate::source::{Source, attributes, is_test};

/// A path that a file names outside its tests, like `std::time::Instant::now`; inside the crate it
/// begins with `crate`. A glob import ends with `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) path: Vec<String>,
    pub(crate) line: usize,
    /// The innermost function around it.
    pub(crate) function: Option<String>,
}

impl Name {
    /// Whether it is `path`, something below it, or a glob that brings it in.
    pub(crate) fn is_within(&self, path: &str) -> bool {
        let wanted: Vec<&str> = path.split("::").collect();
        let named: Vec<&str> = self.path.iter().map(String::as_str).collect();
        match named.split_last() {
            Some((&"*", above)) if above.len() < wanted.len() => wanted.starts_with(above),
            _ => named.starts_with(&wanted),
        }
    }
}

/// All names that `source` uses outside its tests.
pub(crate) fn names(source: &Source) -> Vec<Name> {
    let mut collector = Collector {
        module: source.module(),
        functions: Vec::new(),
        aliases: BTreeMap::new(),
        found: Vec::new(),
    };
    collector.visit_file(&source.file);
    let Collector { aliases, found, .. } = collector;
    found
        .into_iter()
        .map(|name| Name {
            path: resolve(name.path, &aliases),
            ..name
        })
        .collect()
}

struct Collector {
    module: Vec<String>,
    functions: Vec<String>,
    /// What a first segment stands for in this file.
    aliases: BTreeMap<String, Vec<String>>,
    found: Vec<Name>,
}

/// Replaces the first segment by what was imported under its name.
fn resolve(mut path: Vec<String>, aliases: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    // An alias of an alias of an alias is as deep as anybody goes; a circle ends here too.
    for _ in 0..3 {
        let first = path.first().map(String::as_str).unwrap_or_default();
        match aliases.get(first) {
            Some(whole) if whole.first().is_some_and(|new| new != first) => {
                path.splice(0..1, whole.iter().cloned());
            }
            _ => break,
        }
    }
    path
}

impl Collector {
    fn found(&mut self, path: Vec<String>, line: usize) {
        let path = self.absolute(path);
        let function = self.functions.last().cloned();
        self.found.push(Name {
            path,
            line,
            function,
        });
    }

    /// `self`, `super` and the crate's name as a path that begins with `crate`.
    fn absolute(&self, path: Vec<String>) -> Vec<String> {
        let mut module = self.module.clone();
        let mut rest = path.as_slice();
        match path.first().map(String::as_str) {
            Some("crate" | "rental_agent") => module.clear(),
            Some("self") => {}
            Some("super") => {
                while let Some(("super", below)) = rest.split_first().map(|(a, b)| (a.as_str(), b))
                {
                    module.pop();
                    rest = below;
                }
                return from_crate(module, rest);
            }
            _ => return path,
        }
        from_crate(module, rest.get(1..).unwrap_or_default())
    }

    fn import(&mut self, prefix: &mut Vec<String>, tree: &UseTree) {
        let line = tree.span().start().line;
        match tree {
            UseTree::Path(path) => {
                prefix.push(path.ident.to_string());
                self.import(prefix, &path.tree);
                prefix.pop();
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.import(prefix, tree);
                }
            }
            UseTree::Name(name) => self.import_as(prefix, &name.ident, &name.ident, line),
            UseTree::Rename(name) => self.import_as(prefix, &name.ident, &name.rename, line),
            UseTree::Glob(_) => {
                let glob = prefix.iter().cloned().chain(["*".to_owned()]);
                self.found(glob.collect(), line);
            }
        }
    }

    fn import_as(&mut self, prefix: &[String], name: &syn::Ident, alias: &syn::Ident, line: usize) {
        let mut path = prefix.to_vec();
        let mut alias = alias.to_string();
        if name != "self" {
            path.push(name.to_string());
        } else if alias == "self" {
            // `use a::b::{self}` brings in `b`.
            alias = path.last().cloned().unwrap_or_default();
        }
        let whole = self.absolute(path.clone());
        self.found(path, line);
        self.aliases.insert(alias, whole);
    }

    /// Paths of two and more segments among tokens that nobody has parsed.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let (mut colons, mut line) = (0, 0);
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.written(&mut path, line);
                    }
                    line = ident.span().start().line;
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Group(group) => {
                    self.written(&mut path, line);
                    self.tokens(group.stream());
                    colons = 0;
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {
                    self.written(&mut path, line);
                    colons = 0;
                }
            }
        }
        self.written(&mut path, line);
    }

    fn written(&mut self, path: &mut Vec<String>, line: usize) {
        let path = std::mem::take(path);
        if path.len() > 1 {
            self.found(path, line);
        }
    }

    fn within(&mut self, function: &syn::Ident, visit: impl FnOnce(&mut Self)) {
        self.functions.push(function.to_string());
        visit(self);
        self.functions.pop();
    }
}

fn from_crate(module: Vec<String>, rest: &[String]) -> Vec<String> {
    let inner = module.into_iter().chain(rest.iter().cloned());
    ["crate".to_owned()].into_iter().chain(inner).collect()
}

impl<'ast> Visit<'ast> for Collector {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_test(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        let name = item.ident.to_string();
        let whole = from_crate(self.module.clone(), std::slice::from_ref(&name));
        self.aliases.insert(name.clone(), whole);
        self.module.push(name);
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.import(&mut Vec::new(), &item.tree);
    }

    fn visit_item_extern_crate(&mut self, item: &'ast syn::ItemExternCrate) {
        self.found(vec![item.ident.to_string()], item.span().start().line);
    }

    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        self.within(&item.sig.ident, |this| visit::visit_item_fn(this, item));
    }

    fn visit_impl_item_fn(&mut self, item: &'ast ImplItemFn) {
        if !is_test(&item.attrs) {
            self.within(&item.sig.ident, |this| {
                visit::visit_impl_item_fn(this, item)
            });
        }
    }

    fn visit_path(&mut self, path: &'ast Path) {
        let segments: Vec<_> = path
            .segments
            .iter()
            .map(|part| part.ident.to_string())
            .collect();
        // One segment is a local thing, or was imported and counted there.
        if segments.len() > 1 {
            self.found(segments, path.span().start().line);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast Macro) {
        visit::visit_macro(self, item);
        self.tokens(item.tokens.clone());
    }

    fn visit_meta_list(&mut self, list: &'ast MetaList) {
        visit::visit_meta_list(self, list);
        self.tokens(list.tokens.clone());
    }
}
