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

/// The presence key of a work queue.
pub(super) fn presence_key(address: &str) -> String {
    format!("commlib:presence:{address}")
}

/// Appends all jobs to `out` and hands each command's load to `fly`, with how many bytes were appended before it.
pub(super) fn encode(
    jobs: &mut Vec<Job>,
    scripts: &Scripts,
    wake: Option<&str>,
    out: &mut Vec<u8>,
    mut fly: impl FnMut(Load, usize),
) {
    let first = out.len();
    let mut pushes = Groups::new(|push: &Push| push.address.as_str());
    let mut replies = Groups::new(|reply: &Reply| reply.list.as_str());
    for job in jobs.drain(..) {
        let before = out.len() - first;
        match job {
            Job::Push(push) => pushes.add(push),
            Job::Reply(reply) => replies.add(reply),
            Job::Publish { channel, body, done } => {
                resp::command(out, &[b"PUBLISH", channel.as_str().as_bytes(), &body]);
                fly(Load::Publish { channel, done }, before);
            }
            Job::GiveBack(given) => {
                let mut call = scripts.call(Script::GiveBack, &[given.list.as_str()]);
                call.arg(GIVEN_BACK_MS).arg(given.item.as_ref());
                call.write_packed_command(out);
                fly(Load::GiveBack(given), before);
            }
            Job::Ask(Ask { command, what, done }) => {
                out.extend_from_slice(&command);
                fly(Load::Ask { what, done }, before);
            }
            Job::Call(call) => {
                script_call(&call, scripts, out);
                fly(Load::Call(call), before);
            }
        }
    }
    let mut call_lists = false;
    for group in pushes.groups {
        let before = out.len() - first;
        call_lists |= push_group(&group, scripts, wake.is_some(), out);
        fly(Load::Pushes(group), before);
    }
    // After the requests, so that the inbox looks for their replies.
    if let Some(wake) = wake.filter(|_| call_lists) {
        let before = out.len() - first;
        let call = Call {
            script: Script::Reply,
            keys: vec![wake.to_owned()],
            arguments: vec![REPLY_LIST_MS.to_string().into(), "1".into()],
            what: "wake the inbox",
            done: None,
        };
        script_call(&call, scripts, out);
        fly(Load::Call(call), before);
    }
    for group in replies.groups {
        let before = out.len() - first;
        if let Some(reply) = group.first() {
            let mut call = scripts.call(Script::Reply, &[reply.list.as_str()]);
            call.arg(REPLY_LIST_MS);
            for reply in &group {
                call.arg(reply.item.as_ref());
            }
            call.write_packed_command(out);
        }
        fly(Load::Replies(group), before);
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
    call.arg(longest.unwrap_or(GIVEN_BACK_MS)).arg(super::QUEUE_LIMIT);
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
    key: fn(&T) -> &str,
}

impl<T> Groups<T> {
    fn new(key: fn(&T) -> &str) -> Self {
        Self {
            groups: Vec::new(),
            key,
        }
    }

    /// Looks only at the latest groups: a batch to many places gains little from grouping and must not be searched
    /// through for each item.
    fn add(&mut self, item: T) {
        let key = self.key;
        let open =
            self.groups.iter_mut().rev().take(16).find(|group| {
                group.len() < GROUP && group.first().is_some_and(|first| key(first) == key(&item))
            });
        match open {
            Some(group) => group.push(item),
            None => self.groups.push(vec![item]),
        }
    }
}
