//! Entries of a group that are taken anew: those that rested long enough, and those that another member left behind.

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Interval;

use super::connection::{Link, LinkError};
use super::fault;
use super::resp::{self, Value};
use super::scripts::{Script, Scripts};
use super::stream::Place;
use super::stream_id::EntryId;
use super::stream_member::{End, Member};

impl Member {
    /// Takes what rested long enough.
    pub(super) async fn take_again(
        &mut self,
        link: &mut Link,
        scripts: &mut Scripts,
        due: &[EntryId],
        permits: &mut OwnedSemaphorePermit,
        beat: &mut Interval,
    ) -> Result<(), End> {
        let mut command = Vec::new();
        self.claim(&mut command, scripts, 2 + due.len());
        resp::word(&mut command, b"");
        resp::word(&mut command, b"");
        for id in due {
            id.write(&mut command);
        }
        let answer = self.ask(link, &command, beat).await?;
        if self.claimed(answer, scripts, permits).await?.is_some() {
            // What did not come back is not this member's any more.
            self.shared.forget_due(due);
        }
        Ok(())
    }

    /// Takes over what others left behind. Whether all of it was looked through.
    pub(super) async fn take_over(
        &mut self,
        link: &mut Link,
        scripts: &mut Scripts,
        permits: &mut OwnedSemaphorePermit,
        beat: &mut Interval,
    ) -> Result<bool, End> {
        let mut command = Vec::new();
        self.claim(&mut command, scripts, 2);
        resp::word(&mut command, self.cursor.as_bytes());
        resp::word(&mut command, permits.num_permits().to_string().as_bytes());
        let answer = self.ask(link, &command, beat).await?;
        if let Some(cursor) = self.claimed(answer, scripts, permits).await? {
            self.cursor = cursor;
        }
        Ok(self.cursor == "0-0")
    }

    /// Begins a claim; so many words follow.
    fn claim(&self, out: &mut Vec<u8>, scripts: &Scripts, more: usize) {
        let place = &self.shared.place;
        scripts.begin(out, Script::TakeOver, &[&place.stream], 3 + more);
        resp::word(out, place.group.as_bytes());
        resp::word(out, self.shared.consumer.as_bytes());
        resp::word(out, self.claim_after.as_millis().to_string().as_bytes());
    }

    /// Delivers what was claimed: where to go on, how many are gone, then the number of deliveries and the entry of each.
    async fn claimed(
        &self,
        answer: Value,
        scripts: &mut Scripts,
        permits: &mut OwnedSemaphorePermit,
    ) -> Result<Option<String>, End> {
        let mut parts = match answer {
            Value::Array(parts) => parts.into_iter(),
            Value::Error(error) if fault::is_unknown_script(&error) => {
                scripts.forget();
                return Ok(None);
            }
            Value::Error(error) if error.code() == "NOGROUP" => return Ok(Some("0-0".to_owned())),
            Value::Error(error) => {
                self.refused(&error).await;
                return Ok(None);
            }
            _ => return Err(LinkError::unexpected().into()),
        };
        let cursor = parts.next();
        let Place {
            stream,
            group,
            requests,
            ..
        } = &*self.shared.place;
        // Of requests those are gone that another one settled.
        if let Some(lost @ 1..) = parts.next().as_ref().and_then(Value::as_int)
            && !requests
        {
            tracing::error!(
                stream,
                group,
                messages = lost,
                "the broker has removed messages of the stream that members of the group had taken and not handled yet"
            );
            self.sink.gap();
        }
        while let (Some(deliveries), Some(entry)) = (parts.next(), parts.next()) {
            if let (Some(deliveries), Value::Array(entry)) = (deliveries.as_int(), entry) {
                let deliveries = u32::try_from(deliveries).unwrap_or(u32::MAX);
                self.entry(deliveries, entry, permits);
            }
        }
        Ok(cursor.as_ref().and_then(Value::as_str).map(str::to_owned))
    }
}
