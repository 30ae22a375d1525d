//! The binary: arguments, configuration, logging, runtime, agent, exit code. All of it is in the
//! library; see `cli::run` for the order.

use std::process::ExitCode;

use rental_agent::{
    cli::{self, Cli, Command, control::Question},
    config,
};

fn main() -> ExitCode {
    cli::keep_no_core_files();
    let Cli { options, command } = Cli::read();
    let overrides = options.overrides();
    let env = config::environment();
    match command.unwrap_or(Command::Run) {
        Command::Run => cli::run::run(&overrides, env),
        Command::Config(args) => cli::config::run(&args, &overrides, &env),
        Command::Check(args) => cli::check::run(&args, &overrides, env),
        Command::Inventory(args) => cli::inventory::run(&args, &overrides, env),
        Command::Ps(args) => cli::control::run(&Question::Ps(args), &overrides, env),
        Command::Terminate(args) => cli::control::run(&Question::Terminate(args), &overrides, env),
        Command::Drain(args) => cli::control::run(&Question::Drain(args), &overrides, env),
        Command::Resume(args) => cli::control::run(&Question::Resume(args), &overrides, env),
        Command::Gpu(args) => cli::gpu::run(args, &overrides, env),
        Command::GpuWipe => cli::gpu::wipe(),
        Command::Healthcheck => cli::healthcheck::run(&overrides, &env),
        Command::Schema(args) => cli::schema::run(&args),
        Command::Dev(args) => cli::dev::run(*args, &overrides, env),
    }
}
