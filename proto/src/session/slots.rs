//! The packages that the peer offers on a stream.

use super::statements::check_length;
use super::{Accepting, Answer, DATA_LEN_MAX, Event, Fault, Held, OFFERS_MAX, Session};
use crate::v1::{self, Lane, frame};
use crate::{INLINE_LEN_MAX, MANIFEST_LEN_MAX, VerifiedManifest};

/// Where an offer of the peer stands.
pub(super) enum Slot {
    /// Offered, and nothing decided yet.
    Undecided,
    /// Bytes are coming.
    Accepting(Box<Accepting>),
    /// Every byte is verified; what remains is to sync, to commit and to answer.
    Complete,
    /// Its bytes are wrong; what is still under way is dropped until it is refused.
    Broken,
}

impl Session {
    pub(super) fn on_offer(&mut self, offer: v1::Offer) -> Result<(), Fault> {
        let slot = offer.slot;
        if self.bye_received {
            return Err(Fault::AfterBye);
        }
        if self.was_offered(slot) {
            return Err(Fault::Slot(slot));
        }
        if self.slots.len() >= self.offers_max() {
            return Err(Fault::TooManyOffers);
        }
        let manifest = offer.manifest.ok_or(Fault::EmptyFrame)?;
        if manifest.body.len() > MANIFEST_LEN_MAX {
            return Err(Fault::TooLong("manifest"));
        }
        let inline = offer.inline;
        if inline.len() as u64 > INLINE_LEN_MAX {
            return Err(Fault::TooLong("package inside an offer"));
        }
        offer.accepted.as_ref().map_or(Ok(()), check_length)?;
        self.last_peer_slot = Some(slot);
        if self.bye_sent {
            // It was under way when we wanted to end.
            self.decline(slot, "the stream ends");
            return Ok(());
        }
        self.slots.insert(slot, Slot::Undecided);
        self.events.push_back(Event::Offered {
            slot,
            manifest,
            inline,
            accepted: offer.accepted,
        });
        Ok(())
    }

    /// Whether the peer has offered something under this number, however long ago.
    fn was_offered(&self, slot: u32) -> bool {
        self.last_peer_slot.is_some_and(|last| slot <= last)
    }

    pub(super) fn on_data(&mut self, data: v1::Data) -> Result<(), Fault> {
        if data.bytes.is_empty() || data.bytes.len() as u64 > DATA_LEN_MAX {
            return Err(Fault::DataLength);
        }
        let (slot, section) = (data.slot, data.section());
        let offered = self.was_offered(slot);
        match self.slots.get_mut(&slot) {
            Some(Slot::Accepting(accepting)) => {
                accepting.check_window(data.bytes.len() as u64)?;
                match accepting.on_data(section, data.offset, &data.bytes) {
                    Ok(()) => self.after_progress(slot),
                    Err(fault) => self.break_off(slot, fault),
                }
                Ok(())
            }
            Some(Slot::Undecided | Slot::Complete) => Err(Fault::NotAsked),
            Some(Slot::Broken) => Ok(()),
            // Data that was under way when the offer was answered or given up.
            None if offered => Ok(()),
            None => Err(Fault::Slot(slot)),
        }
    }

    fn break_off(&mut self, slot: u32, fault: Fault) {
        self.slots.insert(slot, Slot::Broken);
        self.events.push_back(Event::Broken { slot, fault });
    }

    fn after_progress(&mut self, slot: u32) {
        let Some(Slot::Accepting(accepting)) = self.slots.get_mut(&slot) else {
            return;
        };
        for (section, offset, bytes) in accepting.take_writes() {
            self.events.push_back(Event::Write {
                slot,
                section,
                offset,
                bytes,
            });
        }
        let sync = accepting.take_sync();
        let need = accepting.take_need();
        let complete = accepting.is_complete();
        if let Some(received) = sync {
            self.events.push_back(Event::Sync { slot, received });
        }
        if let Some(ranges) = need {
            self.send(frame::Frame::Need(v1::Need { slot, ranges }));
        }
        if complete {
            self.slots.insert(slot, Slot::Complete);
            self.events.push_back(Event::Complete { slot });
        }
    }

    /// The peer gives up one of its offers: undecided ones a few times on one stream only, since
    /// each costs a decision.
    pub(super) fn on_withdrawn(&mut self, slot: u32, why: String) -> Result<(), Fault> {
        if let Some(withdrawn) = self.slots.remove(&slot) {
            self.taken_back += usize::from(matches!(withdrawn, Slot::Undecided));
            if self.taken_back > OFFERS_MAX {
                return Err(Fault::TooManyOffers);
            }
            let ours = false;
            self.events.push_back(Event::Withdrawn { slot, ours, why });
            return Ok(());
        }
        // It may have been answered while the frame was under way.
        match self.was_offered(slot) {
            true => Ok(()),
            false => Err(Fault::Slot(slot)),
        }
    }

    /// Takes a package that was offered; the bytes that are missing are asked for.
    ///
    /// A control lane takes only what came inside its offer; there this declines the offer.
    pub fn accept(&mut self, slot: u32, manifest: &VerifiedManifest, held: Held) {
        let Some(Slot::Undecided) = self.slots.get(&slot) else {
            return;
        };
        if self.lane == Lane::Control {
            let why = "packages of this size go over a bulk lane";
            self.refuse(slot, why);
            let (ours, why) = (false, why.to_owned());
            self.events.push_back(Event::Withdrawn { slot, ours, why });
            return;
        }
        match Accepting::new(manifest, held) {
            Ok(accepting) => {
                self.slots
                    .insert(slot, Slot::Accepting(Box::new(accepting)));
                self.after_progress(slot);
            }
            Err(fault) => self.break_off(slot, fault),
        }
    }

    /// Says nothing about a package that was offered, and wants none of it on this stream.
    pub fn refuse(&mut self, slot: u32, why: &str) {
        if self.slots.remove(&slot).is_some() {
            self.decline(slot, why);
        }
    }

    fn decline(&mut self, slot: u32, why: &str) {
        self.send(frame::Frame::Withdraw(v1::Withdraw {
            slot,
            why: why.to_owned(),
            answering: true,
        }));
    }

    /// The bytes of [`Event::Sync`] are on stable storage.
    pub fn on_synced(&mut self, slot: u32, received: u64) {
        match self.slots.get_mut(&slot) {
            Some(Slot::Accepting(accepting)) => accepting.on_synced(received),
            Some(Slot::Complete) => {}
            Some(Slot::Undecided | Slot::Broken) | None => return,
        }
        let bytes = received;
        self.send(frame::Frame::Synced(v1::Synced { slot, bytes }));
    }

    /// Answers an offer, whatever has come of it until now.
    pub fn answer(&mut self, slot: u32, answer: Answer) {
        if self.slots.remove(&slot).is_none() {
            return;
        }
        match answer {
            Answer::Statement(signed) => self.send(frame::Frame::Answer(v1::Answer {
                slot,
                statement: Some(signed),
            })),
            Answer::Have => self.send(frame::Frame::Have(v1::Have { slot })),
        }
    }
}
