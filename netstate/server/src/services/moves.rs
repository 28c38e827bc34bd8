//! Moves of keyspaces, as the API has them.

use kv_core::{GroupId, Keyspace};
use kv_node::{MoveError, MoveStage, MoveStatus, Retry};
use netstate_proto::v1::{self as pb, keyspace_move::Stage};
use tonic::Status;

/// What is to move, and where to.
pub(super) fn wanted(request: &pb::MoveKeyspaceRequest) -> Result<(Keyspace, GroupId), Status> {
    let group = u16::try_from(request.to);
    let group = group.map_err(|_| Status::invalid_argument(format!("there is no group {}", request.to)))?;
    Ok((keyspace(&request.keyspace)?, GroupId::new(group)))
}

pub(super) fn keyspace(name: &str) -> Result<Keyspace, Status> {
    Keyspace::new(name).map_err(|error| Status::invalid_argument(error.to_string()))
}

pub(super) fn status(error: &MoveError) -> Status {
    let text = error.to_string();
    match error {
        MoveError::NoGroup { .. } => Status::invalid_argument(text),
        MoveError::NoKeyspace { .. } => Status::not_found(text),
        MoveError::TooMany { .. } => Status::resource_exhausted(text),
        MoveError::Stays { .. } | MoveError::There { .. } | MoveError::Moving { .. } | MoveError::NotMoving { .. } => {
            Status::failed_precondition(text)
        }
        MoveError::Commit(cause) if cause.retry() == Retry::Never => Status::internal(format!("{text}: {cause}")),
        MoveError::Commit(cause) => Status::unavailable(format!("{text}: {cause}")),
        MoveError::Read(cause) => Status::unavailable(format!("{text}: {cause}")),
        MoveError::Unreadable { .. } => Status::data_loss(text),
    }
}

pub(super) fn shown(of: &MoveStatus) -> pb::KeyspaceMove {
    let (stage, reason) = match &of.stage {
        MoveStage::Waiting => (Stage::Waiting, ""),
        MoveStage::Copying => (Stage::Copying, ""),
        MoveStage::Finishing => (Stage::Finishing, ""),
        MoveStage::Dropping => (Stage::Dropping, ""),
        MoveStage::GivingUp => (Stage::GivingUp, ""),
        MoveStage::Done => (Stage::Done, ""),
        MoveStage::GivenUp(why) => (Stage::GivenUp, why.as_str()),
    };
    pb::KeyspaceMove {
        keyspace: of.keyspace.as_str().into(),
        id: of.id.get(),
        from: of.from.get().into(),
        to: of.to.get().into(),
        stage: stage.into(),
        reason: reason.into(),
        copied_bytes: of.copied_bytes,
        of_bytes: of.of_bytes,
    }
}
