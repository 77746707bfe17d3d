//! The packages that we offer on a stream.

use bytes::Bytes;

use super::{Answer, Event, FRAMES_MAX, Fault, OFFERS_MAX, Offering, Session};
use crate::VerifiedManifest;
use crate::v1::{self, Lane, Section, frame};

impl Session {
    /// Offers that may be open at once in one direction.
    pub(super) fn offers_max(&self) -> usize {
        match self.lane {
            Lane::Control => OFFERS_MAX,
            Lane::Bulk | Lane::Unspecified => 1,
        }
    }

    /// Whether another package may be offered now.
    pub fn can_offer(&self) -> bool {
        let room = self.offers.len() < self.offers_max() && self.next_slot < u32::MAX;
        self.greeted.is_some() && !self.is_ending() && room
    }

    /// Offers a package. Only while [`Session::can_offer`].
    ///
    /// `inline` is the whole of it, which a control lane needs; on a bulk lane it is empty.
    pub fn offer(&mut self, manifest: &VerifiedManifest, inline: Bytes) -> u32 {
        self.offer_accepted(manifest, inline, None)
    }

    /// As [`Session::offer`], with the receipt that the recipient's agent judges it by.
    pub fn offer_accepted(
        &mut self,
        manifest: &VerifiedManifest,
        inline: Bytes,
        accepted: Option<v1::Signed>,
    ) -> u32 {
        let slot = self.next_slot;
        self.next_slot += 1;
        self.offers.insert(slot, Offering::new(manifest));
        self.send(frame::Frame::Offer(v1::Offer {
            slot,
            manifest: Some(manifest.signed().clone()),
            inline,
            accepted,
        }));
        slot
    }

    /// The bytes of [`Event::Read`]: all that it asks for, else the offer is given up.
    pub fn on_read(&mut self, slot: u32, section: Section, offset: u64, bytes: Bytes) {
        // It may have been answered or given up while the bytes were read.
        let Some(offer) = self.offers.get_mut(&slot) else {
            return;
        };
        if !offer.on_read(bytes.len() as u64) {
            let why = "it cannot be read in whole";
            self.give_up(slot, why);
            let (ours, why) = (true, why.to_owned());
            self.events.push_back(Event::Withdrawn { slot, ours, why });
            return;
        }
        self.send(frame::Frame::Data(v1::Data {
            slot,
            section: section as i32,
            offset,
            bytes,
        }));
        self.read_more();
    }

    /// Asks for the next reads as far as windows and the queue of frames allow.
    pub(super) fn read_more(&mut self) {
        if self.frames.len() >= FRAMES_MAX {
            return;
        }
        for (slot, offer) in &mut self.offers {
            if let Some((section, offset, length)) = offer.poll_read() {
                self.events.push_back(Event::Read {
                    slot: *slot,
                    section,
                    offset,
                    length,
                });
            }
        }
    }

    /// Gives up one of our own offers.
    pub fn give_up(&mut self, slot: u32, why: &str) {
        if self.offers.remove(&slot).is_some() {
            self.given_up.insert(slot);
            self.send(frame::Frame::Withdraw(v1::Withdraw {
                slot,
                why: why.to_owned(),
                answering: false,
            }));
        }
    }

    /// The offer that a frame of the peer speaks of; `None` when we have given it up meanwhile.
    fn offer_of(&mut self, slot: u32) -> Result<Option<&mut Offering>, Fault> {
        match self.offers.get_mut(&slot) {
            Some(offer) => Ok(Some(offer)),
            None if self.given_up.contains(&slot) => Ok(None),
            None => Err(Fault::Slot(slot)),
        }
    }

    pub(super) fn on_need(&mut self, need: &v1::Need) -> Result<(), Fault> {
        if let Some(offer) = self.offer_of(need.slot)? {
            offer.on_need(&need.ranges)?;
            self.read_more();
        }
        Ok(())
    }

    pub(super) fn on_peer_synced(&mut self, synced: &v1::Synced) -> Result<(), Fault> {
        if let Some(offer) = self.offer_of(synced.slot)? {
            offer.on_synced(synced.bytes)?;
            self.read_more();
        }
        Ok(())
    }

    /// The peer settles an offer of ours.
    pub(super) fn on_answer(&mut self, slot: u32, answer: Answer) -> Result<(), Fault> {
        if self.close(slot)? {
            self.events.push_back(Event::Answered { slot, answer });
        }
        Ok(())
    }

    /// The peer says nothing about an offer of ours on this stream.
    pub(super) fn on_declined(&mut self, slot: u32, why: String) -> Result<(), Fault> {
        if self.close(slot)? {
            let ours = true;
            self.events.push_back(Event::Withdrawn { slot, ours, why });
        }
        Ok(())
    }

    /// Closes an offer by the peer's last word about it; false when we have given it up before.
    fn close(&mut self, slot: u32) -> Result<bool, Fault> {
        if self.offers.remove(&slot).is_some() {
            return Ok(true);
        }
        match self.given_up.remove(&slot) {
            true => Ok(false),
            false => Err(Fault::Slot(slot)),
        }
    }
}
