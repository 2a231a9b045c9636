//! From queued jobs to the bytes of one write.

use tokio::time::Instant;

use super::jobs::{Ask, Call, Job, Load};
use super::outbox::Replies;
use super::push::Row;
use super::resp;
use super::scripts::{Script, Scripts};
use super::standing::{Look, Standings};
use super::stream::{self, Ack, Trimming};
use super::words;
use crate::transport::TransportError;

/// How long a reply list lives after the last reply, in ms: its requester takes replies at once or is gone.
pub(super) const REPLY_LIST_MS: i64 = 30_000;
/// How long a list lives at least after a request was given back to it, in ms.
const GIVEN_BACK_MS: i64 = 60_000;
/// Items per script call, well below what a script can unpack.
pub(super) const GROUP: usize = 1000;
/// Bytes of items per script call, about: a script holds up everybody else.
pub(super) const GROUP_BYTES: usize = 256 * 1024;
/// Bytes of one write, about.
const WRITE: usize = 1024 * 1024;

/// The presence key of a work queue.
pub(super) fn presence_key(address: &str) -> String {
    format!("commlib:presence:{address}")
}

/// What it takes to encode jobs.
pub(super) struct Encoder<'a> {
    pub(super) scripts: &'a Scripts,
    /// In the dialect of commlib-py, the list that wakes the inbox.
    pub(super) wake: Option<&'a str>,
    /// Where the broker has the commands for plain pushes.
    pub(super) standings: Option<&'a mut Standings>,
    pub(super) out: &'a mut Vec<u8>,
    pub(super) now: Instant,
}

impl Encoder<'_> {
    /// Appends jobs, all or as many of the first as are enough for one write, and rows, and hands each load to `fly`, with
    /// the length of what is written by its end and the number of its answers.
    pub(super) fn encode(
        &mut self,
        jobs: &mut Vec<Job>,
        mut rows: Vec<Row>,
        mut fly: impl FnMut(Load, usize, usize),
    ) {
        let mut bytes = 0;
        let count = jobs.iter().take_while(|job| {
            let enough = bytes > WRITE;
            bytes += job.size();
            !enough
        });
        let count = count.count();
        let mut replies = Groups::new(|replies: &Replies| replies.list.as_str());
        let mut acks = Groups::new(Ack::place);
        let mut trimming = Trimming::default();
        for job in jobs.drain(..count) {
            match job {
                Job::Rows => {}
                Job::Row(row) => rows.push(row),
                Job::Replies(row) => {
                    let bytes = row.words.len();
                    replies.add(row, bytes);
                }
                Job::Append(append) => {
                    append.write(trimming.is_due(&append.stream), self.out);
                    fly(Load::Append(append), self.out.len(), 2);
                }
                Job::Ack(ack) => acks.add(ack, 0),
                Job::Publish { channel, body, done } => {
                    self.out.extend_from_slice(b"*3\r\n$7\r\nPUBLISH\r\n");
                    resp::word(self.out, channel.as_str().as_bytes());
                    words::word(self.out, &body);
                    fly(Load::Publish { channel, done }, self.out.len(), 1);
                }
                Job::GiveBack(given) => {
                    self.scripts
                        .begin(self.out, Script::GiveBack, &[given.list.as_str()], 2);
                    resp::number(self.out, GIVEN_BACK_MS);
                    resp::word(self.out, &given.item);
                    fly(Load::GiveBack(given), self.out.len(), 1);
                }
                Job::Ask(Ask { command, what, done }) => {
                    self.out.extend_from_slice(&command);
                    fly(Load::Ask { what, done }, self.out.len(), 1);
                }
                Job::Call(call) => {
                    script_call(&call, self.scripts, self.out);
                    fly(Load::Call(call), self.out.len(), 1);
                }
            }
        }
        for group in acks.groups {
            stream::write_acks(&group, self.out);
            fly(Load::Acks(group), self.out.len(), 1);
        }
        let mut call_lists = false;
        for row in rows {
            call_lists |= self.wake.is_some() && row.has_calls();
            self.push(row, &mut fly);
        }
        // After the requests, so that the inbox looks for their replies.
        if let Some(wake) = self.wake.filter(|_| call_lists) {
            let call = Call {
                script: Script::Wake,
                keys: vec![wake.to_owned()],
                arguments: vec![REPLY_LIST_MS.to_string().into(), "1".into()],
                what: "wake the inbox",
                done: None,
            };
            script_call(&call, self.scripts, self.out);
            fly(Load::Call(call), self.out.len(), 1);
        }
        encode_replies(replies, self.out, fly);
    }

    /// Appends the push of a row.
    fn push(&mut self, row: Row, fly: &mut impl FnMut(Load, usize, usize)) {
        let (address, count) = (row.address.as_str(), row.origins.len());
        // Servers that run commlib-py leave no sign of their presence.
        let look = self.wake.is_none();
        let mut longest = row.time_to_live;
        if !look {
            // Their requests have no time to live, and share the list: ours must not take them along too soon.
            longest = longest.max(GIVEN_BACK_MS);
        }
        let presence = presence_key(address);
        let out = &mut *self.out;
        let known = self.standings.as_mut();
        if let Some(found) = known.and_then(|standings| standings.send(address, count, self.now)) {
            let look = if look { found } else { Look::Not };
            resp::command(out, &[b"MULTI"]);
            resp::begin(out, 2 + count);
            resp::word(out, b"RPUSH");
            resp::word(out, address.as_bytes());
            row.words.write(out);
            // Sets a time to live where there is none, and raises one that is shorter.
            for condition in [b"NX", b"GT"] {
                resp::begin(out, 4);
                resp::word(out, b"PEXPIRE");
                resp::word(out, address.as_bytes());
                resp::number(out, longest);
                resp::word(out, condition);
            }
            // What was queued, the push and the times to live among it, is answered before the whole.
            let answers = 5 + match look {
                Look::Not => 0,
                Look::Short => {
                    // `EXISTS` would do, but whoever may push may ask this already.
                    resp::command(out, &[b"ZCOUNT", presence.as_bytes(), b"-inf", b"+inf"]);
                    1
                }
                Look::Long => {
                    let words: [&[u8]; 6] =
                        [b"ZRANGE", presence.as_bytes(), b"0", b"0", b"REV", b"WITHSCORES"];
                    resp::command(out, &words);
                    resp::command(out, &[b"TIME"]);
                    2
                }
            };
            resp::command(out, &[b"EXEC"]);
            return fly(Load::PlainRow(row, look), out.len(), answers);
        }
        self.scripts
            .begin(out, Script::Push, &[presence.as_str(), address], 3 + count);
        resp::word(out, if look { b"1" } else { b"0" });
        resp::number(out, longest);
        resp::number(out, super::QUEUE_LIMIT);
        row.words.write(out);
        fly(Load::Row(row), out.len(), 1);
    }

    /// Appends the taking back of pushes to one work queue.
    pub(super) fn withdraw(
        &mut self,
        row: Row,
        error: TransportError,
        mut fly: impl FnMut(Load, usize, usize),
    ) {
        self.scripts.begin(
            self.out,
            Script::Withdraw,
            &[row.address.as_str()],
            row.origins.len(),
        );
        row.words.write(self.out);
        fly(Load::Withdrawal(row, error), self.out.len(), 1);
    }
}

/// Appends replies, each with the time to live of its list in one step, so that nothing remains of a requester that is
/// gone.
pub(super) fn encode_replies(
    replies: Groups<Replies>,
    out: &mut Vec<u8>,
    mut fly: impl FnMut(Load, usize, usize),
) {
    let mut groups = replies.groups.into_iter().peekable();
    while groups.peek().is_some() {
        let (mut step, mut items, start) = (Vec::new(), 0, out.len());
        resp::command(out, &[b"MULTI"]);
        while items < GROUP
            && out.len() - start < GROUP_BYTES
            && let Some(group) = groups.next()
        {
            let Some(list) = group.first().map(|row| row.list.as_bytes()) else {
                continue;
            };
            let count = group.iter().map(|row| row.count).sum::<usize>();
            resp::begin(out, 2 + count);
            resp::word(out, b"RPUSH");
            resp::word(out, list);
            for row in &group {
                row.words.write(out);
            }
            resp::begin(out, 3);
            resp::word(out, b"PEXPIRE");
            resp::word(out, list);
            resp::number(out, REPLY_LIST_MS);
            items += count;
            step.push(group);
        }
        resp::command(out, &[b"EXEC"]);
        let answers = 2 + 2 * step.len();
        fly(Load::Replies(step), out.len(), answers);
    }
}

fn script_call(call: &Call, scripts: &Scripts, out: &mut Vec<u8>) {
    let keys: Vec<&str> = call.keys.iter().map(String::as_str).collect();
    scripts.begin(out, call.script, &keys, call.arguments.len());
    for argument in &call.arguments {
        resp::word(out, argument);
    }
}

/// The jobs that a load was made of.
pub(super) fn jobs_of(load: Load) -> Vec<Job> {
    match load {
        Load::Row(row) => vec![Job::Row(row)],
        Load::GiveBack(given) => vec![Job::GiveBack(given)],
        Load::Call(call) => vec![Job::Call(call)],
        Load::PlainRow(..)
        | Load::Withdrawal(..)
        | Load::Replies(_)
        | Load::Publish { .. }
        | Load::Append(_)
        | Load::Acks(_)
        | Load::Ask { .. }
        | Load::Time
        | Load::Script => Vec::new(),
    }
}

/// Jobs by where they go, in the order of the first of each.
pub(super) struct Groups<T> {
    groups: Vec<Vec<T>>,
    /// How many bytes of items are in each.
    bytes: Vec<usize>,
    key: fn(&T) -> &str,
}

impl<T> Groups<T> {
    pub(super) fn new(key: fn(&T) -> &str) -> Self {
        Self {
            groups: Vec::new(),
            bytes: Vec::new(),
            key,
        }
    }

    /// Looks only at the latest groups: a batch to many places gains little from grouping and must not be searched
    /// through for each item.
    pub(super) fn add(&mut self, item: T, bytes: usize) {
        let key = self.key;
        let groups = self.groups.iter_mut().zip(&mut self.bytes).rev().take(16);
        let open = groups
            .filter(|(group, bytes)| group.len() < GROUP && **bytes < GROUP_BYTES)
            .find(|(group, _)| group.first().is_some_and(|first| key(first) == key(&item)));
        match open {
            Some((group, sum)) => {
                group.push(item);
                *sum += bytes;
            }
            None => {
                self.groups.push(vec![item]);
                self.bytes.push(bytes);
            }
        }
    }
}
