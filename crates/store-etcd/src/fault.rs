//! What went wrong with a call, by what it means for the caller: was it executed, may it be asked elsewhere, can it be
//! helped. etcd tells its errors apart by their texts, which have been the same since 3.0.

use std::error::Error as _;

use dtr_store::StoreError;
use tonic::{Code, Status};

/// A call that has no good answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// No member has it: nothing was sent, or a member refused it before looking. It may be asked elsewhere or later.
    NotDone(String),
    /// It was sent and no answer came, or one that leaves open what became of it.
    Doubt(String),
    /// The revision asked for was compacted.
    Compacted,
    /// The revision asked for is not known to the member that was asked.
    Future,
    /// No such lease.
    LeaseNotFound,
    /// A lease of that number is there.
    LeaseExists,
    /// The quota is reached; nothing was done.
    NoSpace,
    /// The request passes the member's limit; nothing was done.
    TooLarge,
    /// The transaction passes the member's limit; nothing was done.
    TooManyOperations,
    /// The answer is larger than we are ready to receive.
    AnswerTooLong,
    /// etcd found its members' data to differ.
    Corrupt(String),
    /// Refused for good; nothing was done.
    Refused(String),
}

/// What a connection says of a request that it could not carry.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// It was not sent.
    #[error("the connection was closed before the request was sent")]
    NotSent(#[source] hyper::Error),
    /// It may have been received.
    #[error("the connection broke")]
    Broken(#[source] hyper::Error),
}

/// An error and what it came from, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let part = source.to_string();
        if !text.contains(&part) {
            text = format!("{text}: {part}");
        }
        next = source.source();
    }
    text
}

impl From<Status> for Fault {
    fn from(status: Status) -> Self {
        // Statuses with a source were made here, by the connection; those without were sent by the member.
        let mut source = status.source();
        while let Some(error) = source {
            if let Some(link) = error.downcast_ref::<LinkError>() {
                return match link {
                    LinkError::NotSent(_) => Self::NotDone(chain(link)),
                    LinkError::Broken(_) => Self::Doubt(chain(link)),
                };
            }
            source = error.source();
        }
        if let Some(error) = status.source() {
            return Self::Doubt(chain(error));
        }
        let text = status.message();
        if status.code() == Code::OutOfRange && text.contains("decoded message length") {
            return Self::AnswerTooLong;
        }
        match text {
            "etcdserver: mvcc: required revision has been compacted" => return Self::Compacted,
            "etcdserver: mvcc: required revision is a future revision" => return Self::Future,
            "etcdserver: requested lease not found" => return Self::LeaseNotFound,
            "etcdserver: lease already exists" => return Self::LeaseExists,
            "etcdserver: mvcc: database space exceeded" => return Self::NoSpace,
            "etcdserver: request is too large" => return Self::TooLarge,
            "etcdserver: too many operations in txn request" => return Self::TooManyOperations,
            // Said before the request is looked at, because each of ours asks for a leader.
            "etcdserver: no leader"
            | "etcdserver: too many requests"
            | "etcdserver: rpc not supported for learner"
            | "etcdserver: not capable" => return Self::NotDone(text.to_owned()),
            "etcdserver: corrupt cluster" => return Self::Corrupt(text.to_owned()),
            _ => {}
        }
        let what = || format!("{}: {text}", status.code());
        match status.code() {
            Code::ResourceExhausted if text.contains("larger than max") => Self::TooLarge,
            Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::FailedPrecondition
            | Code::Unimplemented => Self::Refused(what()),
            Code::DataLoss => Self::Corrupt(what()),
            _ => Self::Doubt(what()),
        }
    }
}

impl Fault {
    /// Whether the same call may be asked of another member, or later.
    pub(crate) fn elsewhere(&self, repeatable: bool) -> bool {
        match self {
            Self::NotDone(_) => true,
            Self::Doubt(_) => repeatable,
            _ => false,
        }
    }
}

/// For calls that may be repeated: what is in doubt was not done as far as anybody can see. Revisions and sizes have to be
/// filled in where they are known.
impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::NotDone(reason) | Fault::Doubt(reason) => Self::Unavailable { reason },
            Fault::LeaseNotFound => Self::LeaseNotFound,
            Fault::NoSpace => Self::Full {
                reason: "etcd's quota is reached and its NOSPACE alarm raised".to_owned(),
            },
            Fault::TooLarge => Self::Invalid(
                "etcd accepts only smaller requests than it should: start its members with the --max-request-bytes \
                 that is configured here, or configure theirs",
            ),
            Fault::TooManyOperations => Self::Invalid(
                "etcd accepts fewer operations in a transaction than it should: start its members with the \
                 --max-txn-ops that is configured here, or configure theirs",
            ),
            Fault::Corrupt(reason) => Self::Corrupt(reason),
            Fault::Refused(reason) => {
                Self::Unavailable { reason: format!("etcd refused: {reason}") }
            }
            Fault::Compacted => {
                Self::Unavailable { reason: "it was compacted meanwhile".to_owned() }
            }
            Fault::Future => Self::Unavailable { reason: "the member lags behind".to_owned() },
            Fault::LeaseExists => Self::Invalid("a lease of that number exists"),
            Fault::AnswerTooLong => Self::Unavailable {
                reason: "an answer was larger than this client receives".to_owned(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_member_says_is_told_apart() {
        let fault = |code, text: &str| Fault::from(Status::new(code, text));
        assert_eq!(
            fault(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"),
            Fault::NoSpace
        );
        assert!(matches!(fault(Code::Unavailable, "etcdserver: no leader"), Fault::NotDone(_)));
        // A proposal that timed out may still be committed.
        assert!(matches!(
            fault(
                Code::Unavailable,
                "etcdserver: request timed out, possibly due to connection lost"
            ),
            Fault::Doubt(_)
        ));
        assert!(matches!(fault(Code::Unknown, "raft proposal dropped"), Fault::Doubt(_)));
        assert!(matches!(fault(Code::Unauthenticated, "x"), Fault::Refused(_)));
        assert_eq!(
            fault(Code::ResourceExhausted, "grpc: received message larger than max (9 vs. 8)"),
            Fault::TooLarge
        );
    }
}
