//! What this gateway says about a package by itself: signed and committed in one step.

use passerelle_proto::v1::{self, Signed, entry::Event, statement::What};
use passerelle_proto::{Hop, PackageId, PartyId, StatementDraft, Timestamp};

use crate::sequencer::Acceptance;

type Words = Box<dyn FnOnce(u64) -> Result<What, String> + Send>;

/// A statement about a package, to its sender or to the hop that it came from. Its words are chosen
/// at the moment of the commit, when it is known at which index of the log they will stand.
pub(crate) struct OwnStatement {
    /// This gateway's party.
    pub(crate) issuer: PartyId,
    /// Whom it speaks to.
    pub(crate) destination: PartyId,
    /// The package.
    pub(crate) package: PackageId,
    /// Where it goes; `None`: it stays in our log.
    pub(crate) next_hop: Option<Hop>,
    words: Option<Words>,
}

impl OwnStatement {
    /// A statement with these words, or none when they refuse at the last moment.
    pub(crate) fn new(
        issuer: PartyId,
        destination: PartyId,
        package: PackageId,
        next_hop: Option<Hop>,
        words: impl FnOnce(u64) -> Result<What, String> + Send + 'static,
    ) -> Box<Self> {
        Box::new(Self {
            issuer,
            destination,
            package,
            next_hop,
            words: Some(Box::new(words)),
        })
    }
}

impl Acceptance for OwnStatement {
    fn draft(&mut self, index: u64, at: Timestamp) -> Result<StatementDraft, String> {
        let words = self.words.take().ok_or("it has been said")?;
        Ok(StatementDraft {
            issuer: self.issuer.clone(),
            destination: self.destination.clone(),
            package: self.package,
            at,
            what: words(index)?,
        })
    }

    fn is_numbered(&self) -> bool {
        self.next_hop.is_some()
    }

    fn event(self: Box<Self>, statement: Signed) -> Event {
        Event::Statement(v1::StatementEvent {
            statement: Some(statement),
            from: None,
            next_hop: self.next_hop.map(|hop| hop.to_message()),
        })
    }
}
