//! Packages under way on a stream: one piece of work at a time for each of them.

use std::collections::VecDeque;
use std::io;

use bytes::Bytes;
use passerelle_proto::session::{Answer, Fault};
use passerelle_proto::v1::Section;

use super::{Done, Driver};
use crate::exchange::{Incoming, OfferAnswer, Outbound};

/// What is done next with a package that is being taken.
pub(super) enum Step {
    Write(Section, u64, Bytes),
    Sync(u64),
    Complete,
    Broken(Fault),
}

/// A package that is being taken, step by step.
pub(super) struct Taking {
    pub(super) steps: VecDeque<Step>,
    // `None` while a step is under way.
    pub(super) incoming: Option<Box<dyn Incoming>>,
}

/// A package that is being offered.
#[derive(Default)]
pub(super) struct Offering {
    // `None` while it is being read.
    pub(super) outbound: Option<Box<dyn Outbound>>,
    // An answer that came while it was being read.
    pub(super) answer: Option<Answer>,
}

impl Driver {
    /// Hands an answer over, once no read is under way.
    pub(super) fn finish_offer(&mut self, slot: u32) {
        let Some(offering) = self.offering.get_mut(&slot) else {
            return;
        };
        if offering.answer.is_none() || offering.outbound.is_none() {
            return;
        }
        if let Some(Offering {
            outbound: Some(outbound),
            answer: Some(answer),
        }) = self.offering.remove(&slot)
        {
            self.spawn(async move {
                outbound.answered(answer).await;
                Done::Nothing
            });
        }
    }

    pub(super) fn read(&mut self, slot: u32, section: Section, offset: u64, length: u64) {
        let offering = self.offering.get_mut(&slot);
        let Some(mut outbound) = offering.and_then(|offering| offering.outbound.take()) else {
            return;
        };
        self.spawn(async move {
            let bytes = outbound.read(section, offset, length).await;
            Done::Read(slot, outbound, section, offset, bytes)
        });
    }

    pub(super) fn on_read(
        &mut self,
        slot: u32,
        outbound: Box<dyn Outbound>,
        section: Section,
        offset: u64,
        bytes: io::Result<Bytes>,
    ) {
        let Some(offering) = self.offering.get_mut(&slot) else {
            return;
        };
        offering.outbound = Some(outbound);
        match bytes {
            _ if offering.answer.is_some() => self.finish_offer(slot),
            Ok(bytes) => self.session.on_read(slot, section, offset, bytes),
            Err(error) => {
                tracing::error!(%error, "a package cannot be read; its offer is withdrawn");
                self.offering.remove(&slot);
                self.session.give_up(slot, "it cannot be read here now");
            }
        }
    }

    pub(super) fn on_withdrawn(&mut self, slot: u32, ours: bool, why: &str) {
        tracing::info!(peer = %self.peer, %why, "a package was put off");
        if ours {
            self.offering.remove(&slot);
        } else {
            self.deciding.remove(&slot);
            self.taking.remove(&slot);
        }
    }

    pub(super) fn on_offer_answer(&mut self, slot: u32, answer: OfferAnswer) {
        if !self.deciding.remove(&slot) {
            // Withdrawn meanwhile.
            return;
        }
        match answer {
            OfferAnswer::Answer(answer) => self.session.answer(slot, answer),
            OfferAnswer::Decline(why) => self.session.refuse(slot, &why),
            OfferAnswer::Take(incoming) => {
                let manifest = incoming.manifest().clone();
                let held = incoming.held();
                let taking = Taking {
                    steps: VecDeque::new(),
                    incoming: Some(incoming),
                };
                self.taking.insert(slot, taking);
                self.session.accept(slot, &manifest, held);
            }
        }
    }

    pub(super) fn step(&mut self, slot: u32, step: Step) {
        let Some(taking) = self.taking.get_mut(&slot) else {
            return;
        };
        taking.steps.push_back(step);
        self.next_step(slot);
    }

    /// Begins the next step of a transfer, unless one is under way.
    pub(super) fn next_step(&mut self, slot: u32) {
        let Some(taking) = self.taking.get_mut(&slot) else {
            return;
        };
        let Some(mut incoming) = taking.incoming.take() else {
            return;
        };
        let Some(step) = taking.steps.pop_front() else {
            taking.incoming = Some(incoming);
            return;
        };
        self.spawn(async move {
            match step {
                Step::Write(section, offset, bytes) => {
                    match incoming.write(section, offset, bytes).await {
                        Ok(()) => Done::Written(slot, incoming),
                        Err(error) => Done::WriteFailed(slot, error.to_string()),
                    }
                }
                Step::Sync(received) => match incoming.sync().await {
                    Ok(()) => Done::Synced(slot, incoming, received),
                    Err(error) => Done::WriteFailed(slot, error.to_string()),
                },
                Step::Complete => Done::Completed(slot, incoming.complete().await),
                Step::Broken(fault) => Done::Completed(slot, incoming.broken(fault).await),
            }
        });
    }

    pub(super) fn put_back(&mut self, slot: u32, incoming: Box<dyn Incoming>) {
        if let Some(taking) = self.taking.get_mut(&slot) {
            taking.incoming = Some(incoming);
            self.next_step(slot);
        }
    }
}
