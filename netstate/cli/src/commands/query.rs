//! `netstate reach` and `netstate exposure`: who may talk to whom, and why.

use netstate_proto::v1 as pb;
use serde_json::{Value, json};

use super::connection::{sentence, side};
use crate::{failure::Failure, human, json, session::Session, values};

/// May one talk to the other, on what, and why? Exit code 1 when not at all
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netstate reach web db
  netstate reach web/shop-1 db/orders -o json
  netstate reach e7.42 db && echo reachable")]
pub(crate) struct Reach {
    /// Network, or endpoint as network/name or id
    from: String,
    /// Network, or endpoint as network/name or id
    to: String,
}

/// Who can reach this, and why?
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netstate exposure db
  netstate exposure db/orders -o json")]
pub(crate) struct Exposure {
    /// Network, or endpoint as network/name or id
    target: String,
}

pub(crate) async fn reach(args: Reach, session: &Session) -> Result<(), Failure> {
    let found = session.client.reach(pb::ReachRequest { from: args.from, to: args.to }).await?;
    session.console.answer(
        || {
            let permit = |permit: &pb::Permit| {
                json!({ "connection": json::connection_or_null(permit.connection.as_ref()), "pairs": permit.pairs })
            };
            json!({
                "verdict": verdict(found.verdict),
                "explanation": found.explanation,
                "permits": found.permits.iter().map(permit).collect::<Vec<Value>>(),
                "pairs": found.pairs,
                "pairs_possible": found.pairs_possible,
                "positions": json::positions(&found.positions),
            })
        },
        || {
            let permit = |permit: &pb::Permit| match &permit.connection {
                Some(connection) => format!("\n  because of {}", sentence(connection)),
                None => "\n  because they are on the same network".to_owned(),
            };
            let pairs = format!("{} of {}", human::count(found.pairs), human::things(found.pairs_possible, "endpoint pair"));
            let because: String = found.permits.iter().map(permit).collect();
            format!("{}: {}\n{pairs}{because}", verdict(found.verdict), found.explanation)
        },
    )?;
    // What is neither allowed nor partly so is not a yes.
    match pb::Verdict::try_from(found.verdict) {
        Ok(pb::Verdict::Allowed | pb::Verdict::Partly) => Ok(()),
        Ok(pb::Verdict::Denied | pb::Verdict::Unspecified) | Err(_) => Err(Failure::False(None)),
    }
}

fn verdict(verdict: i32) -> &'static str {
    match pb::Verdict::try_from(verdict) {
        Ok(pb::Verdict::Allowed) => "allowed",
        Ok(pb::Verdict::Partly) => "partly",
        Ok(pb::Verdict::Denied) => "denied",
        Ok(pb::Verdict::Unspecified) | Err(_) => "unknown",
    }
}

pub(crate) async fn exposure(args: Exposure, session: &Session) -> Result<(), Failure> {
    let found = session.client.exposure(pb::ExposureRequest { target: args.target }).await?;
    session.console.answer(
        || {
            let entry = |entry: &pb::ExposureEntry| {
                json!({
                    "network": entry.network,
                    "selector": entry.selector,
                    "endpoints": entry.endpoints,
                    "connection": json::connection_or_null(entry.connection.as_ref()),
                })
            };
            json!({
                "entries": found.entries.iter().map(entry).collect::<Vec<Value>>(),
                "positions": json::positions(&found.positions),
            })
        },
        || {
            let rows = found.entries.iter().map(row).collect();
            session.console.table(&["from", "endpoints", "traffic", "because of", "by", "reason"], rows)
        },
    )
}

fn row(entry: &pb::ExposureEntry) -> Vec<String> {
    let from = side(Some(&pb::Side { network: entry.network.clone(), selector: entry.selector.clone() }));
    let endpoints = human::count(entry.endpoints);
    match &entry.connection {
        Some(connection) => vec![
            from,
            endpoints,
            values::traffic(connection),
            connection.id.clone(),
            connection.created_by.clone(),
            connection.reason.clone(),
        ],
        None => vec![from, endpoints, "any".into(), "same network".into(), String::new(), String::new()],
    }
}
