//! From queued jobs to the bytes of one write.

use super::jobs::{Ask, Call, Job, Load, Origin, Push, Reply};
use super::resp;
use super::scripts::{Script, Scripts};

/// How long a reply list lives after the last reply, in ms: its requester takes replies at once or is gone.
pub(super) const REPLY_LIST_MS: i64 = 30_000;
/// How long a list lives at least after a request was given back to it, in ms.
const GIVEN_BACK_MS: i64 = 60_000;
/// Items per script call, well below what a script can unpack.
const GROUP: usize = 1000;
/// Bytes of items per script call, about: a script holds up everybody else.
const GROUP_BYTES: usize = 256 * 1024;
/// Bytes of one write, about.
const WRITE: usize = 1024 * 1024;

/// The presence key of a work queue.
pub(super) fn presence_key(address: &str) -> String {
    format!("commlib:presence:{address}")
}

/// Appends jobs to `out`, all or as many of the first as are enough for one write, and hands each command's load to
/// `fly`, with the length of `out` at the end of the command.
pub(super) fn encode(
    jobs: &mut Vec<Job>,
    scripts: &Scripts,
    wake: Option<&str>,
    out: &mut Vec<u8>,
    mut fly: impl FnMut(Load, usize),
) {
    let mut bytes = 0;
    let count = jobs.iter().take_while(|job| {
        let enough = bytes > WRITE;
        bytes += job.size();
        !enough
    });
    let count = count.count();
    let mut pushes = Groups::new(|push: &Push| push.address.as_str());
    let mut replies = Groups::new(|reply: &Reply| reply.list.as_str());
    for job in jobs.drain(..count) {
        match job {
            Job::Push(push) => {
                let bytes = push.item.len();
                pushes.add(push, bytes);
            }
            Job::Reply(reply) => {
                let bytes = reply.item.len();
                replies.add(reply, bytes);
            }
            Job::Publish { channel, body, done } => {
                resp::command(out, &[b"PUBLISH", channel.as_str().as_bytes(), &body]);
                fly(Load::Publish { channel, done }, out.len());
            }
            Job::GiveBack(given) => {
                let mut call = scripts.call(Script::GiveBack, &[given.list.as_str()]);
                call.arg(GIVEN_BACK_MS).arg(given.item.as_ref());
                call.write_packed_command(out);
                fly(Load::GiveBack(given), out.len());
            }
            Job::Ask(Ask { command, what, done }) => {
                out.extend_from_slice(&command);
                fly(Load::Ask { what, done }, out.len());
            }
            Job::Call(call) => {
                script_call(&call, scripts, out);
                fly(Load::Call(call), out.len());
            }
        }
    }
    let mut call_lists = false;
    for group in pushes.groups {
        call_lists |= push_group(&group, scripts, wake.is_some(), out);
        fly(Load::Pushes(group), out.len());
    }
    // After the requests, so that the inbox looks for their replies.
    if let Some(wake) = wake.filter(|_| call_lists) {
        let call = Call {
            script: Script::Reply,
            keys: vec![wake.to_owned()],
            arguments: vec![REPLY_LIST_MS.to_string().into(), "1".into()],
            what: "wake the inbox",
            done: None,
        };
        script_call(&call, scripts, out);
        fly(Load::Call(call), out.len());
    }
    for group in replies.groups {
        if let Some(reply) = group.first() {
            let mut call = scripts.call(Script::Reply, &[reply.list.as_str()]);
            call.arg(REPLY_LIST_MS);
            for reply in &group {
                call.arg(reply.item.as_ref());
            }
            call.write_packed_command(out);
        }
        fly(Load::Replies(group), out.len());
    }
}

fn script_call(call: &Call, scripts: &Scripts, out: &mut Vec<u8>) {
    let keys: Vec<&str> = call.keys.iter().map(String::as_str).collect();
    let mut command = scripts.call(call.script, &keys);
    for argument in &call.arguments {
        command.arg(argument.as_ref());
    }
    command.write_packed_command(out);
}

/// Appends the push of a group to one work queue; whether one of them has a reply list of its own.
fn push_group(group: &[Push], scripts: &Scripts, plain: bool, out: &mut Vec<u8>) -> bool {
    let Some(first) = group.first() else { return false };
    let address = first.address.as_str();
    let presence = presence_key(address);
    let mut call = scripts.call(Script::Push, &[presence.as_str(), address]);
    // Servers that run commlib-py leave no sign of their presence.
    call.arg(if plain { "0" } else { "1" });
    let longest = group.iter().map(|push| push.time_to_live).max();
    let longest = longest.unwrap_or(GIVEN_BACK_MS);
    // Their requests have no time to live, and share the list: ours must not take them along too soon.
    call.arg(if plain {
        longest.max(GIVEN_BACK_MS)
    } else {
        longest
    })
    .arg(super::QUEUE_LIMIT);
    for push in group {
        call.arg(push.item.as_ref());
    }
    call.write_packed_command(out);
    group
        .iter()
        .any(|push| matches!(push.origin, Origin::Call { calls: Some(_), .. }))
}

/// The jobs that a load was made of.
pub(super) fn jobs_of(load: Load) -> Vec<Job> {
    match load {
        Load::Pushes(pushes) => pushes.into_iter().map(Job::Push).collect(),
        Load::Replies(replies) => replies.into_iter().map(Job::Reply).collect(),
        Load::GiveBack(given) => vec![Job::GiveBack(given)],
        Load::Call(call) => vec![Job::Call(call)],
        Load::Publish { .. } | Load::Ask { .. } | Load::Time | Load::Script => Vec::new(),
    }
}

/// Jobs by where they go, in the order of the first of each.
struct Groups<T> {
    groups: Vec<Vec<T>>,
    /// How many bytes of items are in each.
    bytes: Vec<usize>,
    key: fn(&T) -> &str,
}

impl<T> Groups<T> {
    fn new(key: fn(&T) -> &str) -> Self {
        Self {
            groups: Vec::new(),
            bytes: Vec::new(),
            key,
        }
    }

    /// Looks only at the latest groups: a batch to many places gains little from grouping and must not be searched
    /// through for each item.
    fn add(&mut self, item: T, bytes: usize) {
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
