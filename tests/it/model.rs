//! The registry against a model: a simulated engine, a simulated server, and everything that goes
//! wrong between them, in any order; after each step the rules are looked at from outside.
//!
//! The model shares the seam's types with the registry and no code: what a container, a marker or a
//! record has to be, it says for itself, as PROTOCOL does. A registry with a planted defect is the
//! control: each rule is shown to fail.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::too_many_lines,
    clippy::wildcard_enum_match_arm,
    reason = "the lints' exceptions for tests do not reach the functions that tests call"
)]

pub(crate) mod broken;
pub(crate) mod deeds;
pub(crate) mod engine;
pub(crate) mod fixture;
pub(crate) mod quiet;
pub(crate) mod rules;
pub(crate) mod script;
pub(crate) mod server;
pub(crate) mod speech;
pub(crate) mod world;

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use proptest::{
    prelude::*,
    test_runner::{Config, RngAlgorithm, RngSeed, TestError, TestRunner},
};
use rental_agent::instance::registry::Registry;

use self::{
    broken::{Broken, DEFECTS},
    rules::{Check, Violation},
    script::{Action, Weather, action},
    world::{Make, World},
};

/// One case: how it begins and what happens then.
#[derive(Debug, Clone)]
struct Case {
    calm: bool,
    tells_start: bool,
    actions: Vec<Action>,
}

fn case(weather: Weather) -> impl Strategy<Value = Case> {
    let actions = prop::collection::vec(action(weather), 1..80);
    let mostly = || prop_oneof![3 => Just(true), 1 => Just(false)];
    (mostly(), mostly(), actions).prop_map(|(calm, tells_start, actions)| Case {
        calm,
        tells_start,
        actions,
    })
}

fn play(world: &mut World, case: &Case) -> Check {
    world.begin(case.calm)?;
    case.actions
        .iter()
        .try_for_each(|action| world.act(action))?;
    world.finish()
}

fn honest() -> Make {
    Rc::new(|options| Box::new(Registry::new(options)))
}

fn config(cases: u32, seed: u64) -> Config {
    Config {
        cases,
        rng_algorithm: RngAlgorithm::XorShift,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        max_shrink_iters: 4_000,
        max_shrink_time: 40_000,
        ..Config::default()
    }
}

/// What happened in a case, line by line.
fn story(make: &Make, case: &Case) -> (Vec<String>, Check) {
    let mut world = World::new(Rc::clone(make), case.tells_start);
    world.story = Some(Vec::new());
    let check = play(&mut world, case);
    (world.story.unwrap_or_default(), check)
}

/// Plays so many cases; says how often each situation was seen.
fn explore(
    make: &Make,
    weather: Weather,
    cases: u32,
    seed: u64,
) -> Result<BTreeMap<&'static str, u32>, (Case, Violation)> {
    let seen: RefCell<BTreeMap<&'static str, u32>> = RefCell::default();
    let mut runner = TestRunner::new(config(cases, seed));
    let result = runner.run(&case(weather), |case| {
        let mut world = World::new(Rc::clone(make), case.tells_start);
        let check = play(&mut world, &case);
        let mut seen = seen.borrow_mut();
        for what in &world.rules.seen {
            *seen.entry(what).or_default() += 1;
        }
        check.map_err(|broken| TestCaseError::fail(format!("{}: {}", broken.rule, broken.detail)))
    });
    match result {
        Ok(()) => Ok(seen.into_inner()),
        Err(TestError::Fail(reason, case)) => {
            let (_, check) = story(make, &case);
            let broken = check.err().unwrap_or_else(|| Violation {
                rule: "a case fails the same way each time",
                detail: reason.to_string(),
            });
            Err((case, broken))
        }
        Err(TestError::Abort(reason)) => panic!("aborted: {reason}"),
    }
}

/// How often each kind of trouble comes, beside what a server says and time passing.
const ROUGH: Weather = Weather {
    faults: 4,
    deaths: 2,
    line: 2,
    absences: 2,
    people: 2,
};

/// So many cases in each of the tests below, 10,000 in all.
const CASES: u32 = 1_250;

/// What every so many cases have to have seen, so that the rules were put to a test at all.
const SITUATIONS: &[&str] = &[
    "a command that is known again",
    "a container vanishes",
    "a deploy done",
    "a deploy failed",
    "a deploy refused",
    "a marker written without labels",
    "a pull cancelled",
    "a start finds a created container",
    "a start finds a decision to end",
    "a start finds a final record",
    "a start finds a running container",
    "a start finds an ended container",
    "a stranger with a GPU and a port",
    "a terminate done",
    "a terminate during the pull",
    "a terminate of an unknown id",
    "killed in a create",
    "killed in a pull",
    "killed in a start",
    "killed while the decision is written",
    "killed while the final record is written",
];

fn hold(seed: u64) {
    match explore(&honest(), ROUGH, CASES, seed) {
        Ok(seen) => {
            println!("{seen:#?}");
            for situation in SITUATIONS {
                assert!(seen.contains_key(situation), "never seen: {situation}");
            }
        }
        Err((case, broken)) => {
            let (story, _) = story(&honest(), &case);
            panic!(
                "{}\n{case:#?}\n{}: {}",
                story.join("\n"),
                broken.rule,
                broken.detail
            );
        }
    }
}

macro_rules! the_rules_hold {
    ($($name:ident: $seed:literal),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                hold($seed);
            }
        )*
    };
}

the_rules_hold! {
    the_rules_hold_whatever_happens_1: 1,
    the_rules_hold_whatever_happens_2: 2,
    the_rules_hold_whatever_happens_3: 3,
    the_rules_hold_whatever_happens_4: 4,
    the_rules_hold_whatever_happens_5: 5,
    the_rules_hold_whatever_happens_6: 6,
    the_rules_hold_whatever_happens_7: 7,
    the_rules_hold_whatever_happens_8: 8,
}

#[test]
fn each_planted_defect_breaks_the_rule_that_forbids_it() {
    for (defect, rules) in DEFECTS {
        let make: Make = Rc::new(|options| Box::new(Broken::new(options, *defect)));
        let Err((_, broken)) = explore(&make, ROUGH, 400, 1) else {
            panic!("{defect:?} was not found");
        };
        assert!(
            rules.contains(&broken.rule),
            "{defect:?} broke another rule: {}: {}",
            broken.rule,
            broken.detail
        );
    }
}
