//! Statements that cross a stream by themselves, until they are acknowledged.

use super::{Event, Fault, STATEMENTS_MAX, Session};
use crate::v1::{self, Signed, frame};
use crate::{Digest, STATEMENT_LEN_MAX, StatementId};

/// Whether a statement may be as long as this one.
pub(super) fn check_length(signed: &Signed) -> Result<(), Fault> {
    match signed.body.len() > STATEMENT_LEN_MAX {
        true => Err(Fault::TooLong("statement")),
        false => Ok(()),
    }
}

impl Session {
    /// Whether another statement may be sent now.
    pub fn can_send_statement(&self) -> bool {
        self.greeted.is_some() && !self.is_ending() && self.unacked.len() < STATEMENTS_MAX
    }

    /// Sends a statement that is to be acknowledged. Only while [`Session::can_send_statement`].
    pub fn send_statement(&mut self, signed: Signed) {
        let id = StatementId(Digest::of(&signed.body));
        self.unacked.push_back(id);
        self.send(frame::Frame::Statement(signed));
    }

    /// Statements of the peer are committed here.
    pub fn ack(&mut self, ids: &[StatementId]) {
        self.uncommitted = self.uncommitted.saturating_sub(ids.len());
        let ids = ids.iter().map(|id| id.as_bytes().to_vec()).collect();
        self.send(frame::Frame::Ack(v1::Ack { ids }));
    }

    pub(super) fn on_statement(&mut self, signed: Signed) -> Result<(), Fault> {
        check_length(&signed)?;
        self.uncommitted += 1;
        if self.uncommitted > STATEMENTS_MAX {
            return Err(Fault::TooManyStatements);
        }
        self.events.push_back(Event::Statement(signed));
        Ok(())
    }

    pub(super) fn on_ack(&mut self, ack: &v1::Ack) -> Result<(), Fault> {
        if ack.ids.len() > STATEMENTS_MAX {
            return Err(Fault::TooLong("acknowledgement"));
        }
        let mut acked = Vec::new();
        for id in &ack.ids {
            let id = StatementId::from_slice(id).map_err(|_| Fault::EmptyFrame)?;
            // An acknowledgement of what was never sent proves nothing; it is ignored.
            if let Some(at) = self.unacked.iter().position(|sent| *sent == id) {
                self.unacked.remove(at);
                acked.push(id);
            }
        }
        if !acked.is_empty() {
            self.events.push_back(Event::Acked(acked));
        }
        Ok(())
    }
}
