//! The command line as a whole: which commands there are, and which function each one runs.

use clap::{Parser, Subcommand};

use crate::{
    bench, commands,
    failure::Failure,
    session::{Global, Session},
};

/// State of container networks: which there are, what is attached, who may talk to whom, and why
#[derive(Debug, Parser)]
#[command(
    name = "netstate",
    version,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
#[command(after_help = "Examples:
  netstate server                                        a one-node cluster in ./netstate-data
  netstate network create web --pool 10.1.0.0/16
  netstate connect web db --port tcp/5432 --reason \"orders read the database\"
  netstate reach web db

Exit codes: 0 done, 1 refused or false, 2 wrong usage, 3 no server reached.")]
pub(crate) struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Server(Box<commands::server::Args>),
    Agent(commands::agent::Args),
    #[command(subcommand)]
    Network(commands::network::Command),
    #[command(subcommand)]
    Endpoint(commands::endpoint::Command),
    #[command(subcommand)]
    Connection(commands::connection::Command),
    #[command(subcommand)]
    Host(commands::host::Command),
    Connect(commands::connect::Connect),
    Disconnect(commands::connect::Disconnect),
    Reach(commands::query::Reach),
    Exposure(commands::query::Exposure),
    Wait(commands::wait::Args),
    #[command(subcommand)]
    Audit(commands::audit::Command),
    #[command(subcommand)]
    Import(commands::import::Command),
    #[command(subcommand)]
    Cluster(commands::cluster::Command),
    #[command(subcommand)]
    Bench(bench::Command),
    Completions(commands::completions::Args),
    #[command(subcommand, hide = true)]
    Probe(commands::probe::Command),
}

impl Cli {
    /// Runs the command.
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let global = self.global;
        let session = |global: Global| Session::new(global);
        // Boxed: the futures of the larger commands would otherwise all lie side by side in this one.
        match self.command {
            Command::Server(args) => Box::pin(commands::server::run(*args)).await,
            Command::Agent(args) => Box::pin(commands::agent::run(args, global.servers)).await,
            Command::Completions(args) => commands::completions::run(&args),
            Command::Probe(command) => commands::probe::run(command, global.timeout).await,
            Command::Network(command) => commands::network::run(command, &session(global)?).await,
            Command::Endpoint(command) => Box::pin(commands::endpoint::run(command, &session(global)?)).await,
            Command::Connection(command) => commands::connection::run(command, &session(global)?).await,
            Command::Host(command) => commands::host::run(command, &session(global)?).await,
            Command::Connect(args) => Box::pin(commands::connect::connect(args, &session(global)?)).await,
            Command::Disconnect(args) => Box::pin(commands::connect::disconnect(args, &session(global)?)).await,
            Command::Reach(args) => commands::query::reach(args, &session(global)?).await,
            Command::Exposure(args) => commands::query::exposure(args, &session(global)?).await,
            Command::Wait(args) => commands::wait::run(args, &session(global)?).await,
            Command::Audit(command) => commands::audit::run(command, &session(global)?).await,
            Command::Import(command) => Box::pin(commands::import::run(command, &global)).await,
            Command::Cluster(command) => Box::pin(commands::cluster::run(command, &session(global)?)).await,
            Command::Bench(command) => Box::pin(bench::run(command, &session(global)?)).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Every command that does something shows how it is used.
    #[test]
    fn every_command_has_examples() {
        fn walk(path: &str, command: &clap::Command, without: &mut Vec<String>) {
            let path = format!("{path} {}", command.get_name());
            if command.is_hide_set() || command.get_name() == "help" {
                return;
            }
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            if !command.has_subcommands() && !help.contains(&format!("{} ", path.trim())) {
                without.push(path.clone());
            }
            command.get_subcommands().for_each(|command| walk(&path, command, without));
        }
        let mut without = Vec::new();
        walk("", &Cli::command(), &mut without);
        assert_eq!(without, Vec::<String>::new());
    }

    fn parse(line: &str) -> Result<Cli, String> {
        Cli::try_parse_from(line.split_whitespace()).map_err(|error| error.to_string())
    }

    #[test]
    fn options_of_every_command_stand_anywhere() {
        for line in [
            "netstate --servers a:1,b:2 -o json network ls",
            "netstate network --servers a:1,b:2 ls -o json",
            "netstate network ls --servers a:1 --servers b:2 --output json",
        ] {
            let cli = parse(line).unwrap();
            assert_eq!(cli.global.servers, ["a:1", "b:2"], "{line}");
            assert_eq!(cli.global.output, crate::console::Format::Json, "{line}");
        }
    }

    #[test]
    fn what_would_mean_nothing_is_refused() {
        for line in [
            "netstate",
            "netstate nonsense",
            "netstate connect web db --reason x",
            "netstate connect web db --port tcp/443",
            "netstate connect web db --port 443 --reason x",
            "netstate connect web db --port tcp/443 --reason x --for 0s",
            "netstate connect web db --port tcp/443 --reason x --dry-run --wait",
            "netstate disconnect c1",
            "netstate network create web",
            "netstate endpoint attach",
            "netstate endpoint attach web/a --host h -f items",
            "netstate wait",
            "netstate wait --connection c1 --network web",
            "netstate audit log --network web --all",
            "netstate network ls -o xml",
            "netstate import etcd",
            "netstate cluster snapshot save",
            "netstate cluster snapshot restore f --raise 0",
            "netstate cluster snapshot restore f --at noon",
            "netstate cluster snapshot restore f --at 2026-11-28T05:00:00Z --keyspace-revision a@1",
            "netstate cluster snapshot restore f --initial-cluster n1",
            "netstate --timeout soon network ls",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
