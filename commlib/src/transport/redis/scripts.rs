//! The scripts that run inside the broker, each one step that nothing can come between.
//!
//! Effects are replicated as commands, so `TIME` in a script is fine (Redis 5 and later).

use super::connection::{Link, LinkError, SILENCE};
use super::resp::{self, Value};
use super::stream_scripts;

/// A script by its place in [`SOURCES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Script {
    /// KEYS presence, list; ARGV check (1 or 0), time to live in ms, most items in the list, items. Returns -1 if
    /// nobody serves the list, else how many of the items, from the first on, were put at its end.
    Push,
    /// KEYS list; ARGV time to live in ms, item. Wakes whoever waits for the list.
    Wake,
    /// KEYS list; ARGV time to live in ms, items. Puts requests back at the head of their list, first item first.
    GiveBack,
    /// KEYS presence of each address; ARGV member, how long it lives in ms. Says that this server serves them.
    Presence,
    /// KEYS lists; ARGV most items. Takes items, each after the number of its list. A key of another type counts as empty.
    Drain,
    /// KEYS claim of a group on messages that look the same; ARGV member, time to live in ms, when the member
    /// joined (µs, broker's clock). Returns 1 if the member's next one of these messages is its own.
    Claim,
    /// KEYS list; ARGV items. Takes back items that nobody has taken yet; of each, whether it was there.
    Withdraw,
    /// KEYS lists; ARGV mark, time to live in ms. Leaves a list behind that dies by itself, and a later reply with it.
    Tombstone,
    /// KEYS stream; ARGV group, member, how long in ms nobody spoke for what is left behind, where to begin, most
    /// entries; or in place of the last two nothing, and entries. Returns where to go on, how many entries are gone from
    /// the stream, then the number of deliveries and the entry of each.
    TakeOver,
    /// KEYS stream, dead letters; ARGV group, entry, most dead letters, reason, attempts, 1 if the entry is only for this
    /// group. Once only.
    Bury,
    /// KEYS dead letters; ARGV dead letter, most entries, how streams of requests begin. Gives it to its group again. Returns 0 if it is not there.
    Resend,
    /// KEYS stream; ARGV group, member that leaves, how long in ms a member does nothing that is gone. Forgets members.
    Tidy,
    /// KEYS stream; ARGV most entries, address, request. Keeps a request. Returns 0 if there are too many.
    Keep,
    /// KEYS stream; ARGV group, entry. The request is done with.
    Settle,
    /// KEYS what is known of an idempotency key; ARGV body, owner, time to live in ms. Returns 1 if the owner has the
    /// work, 2 if another has, 3 if the body was another, or the answer.
    ClaimKey,
    /// KEYS what is known of an idempotency key; ARGV body, owner, time to live in ms, and if there is one the answer.
    Conclude,
    /// KEYS stream; ARGV group. Returns how many entries are gone that the group never got (-1 if nobody can know), and how
    /// many are there that it got.
    Overtaken,
    /// KEYS stream; ARGV group, how long in ms a member does nothing that is gone. Removes the group. Returns 0 if there is
    /// none, 2 if it has members.
    Remove,
}

impl Script {
    /// Whether a call that may have been carried out is made again on the next connection.
    pub(super) fn is_repeatable(self) -> bool {
        matches!(self, Self::Tombstone | Self::Bury | Self::Settle)
    }
}

const SOURCES: [&str; 18] = [
    "if ARGV[1] == '1' then
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  if redis.call('ZCOUNT', KEYS[1], string.format('(%.0f', now), '+inf') == 0 then return -1 end
end
local count = math.min(#ARGV - 3, tonumber(ARGV[3]) - redis.call('LLEN', KEYS[2]))
if count <= 0 then return 0 end
redis.call('RPUSH', KEYS[2], unpack(ARGV, 4, 3 + count))
if redis.call('PTTL', KEYS[2]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[2], ARGV[2]) end
return count",
    "redis.call('RPUSH', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1",
    "for i = #ARGV, 2, -1 do redis.call('LPUSH', KEYS[1], ARGV[i]) end
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[1]) then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
return 1",
    "local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for _, key in ipairs(KEYS) do
  redis.call('ZADD', key, string.format('%.0f', now + ARGV[2]), ARGV[1])
  redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('%.0f', now))
  redis.call('PEXPIRE', key, ARGV[2] + 5000)
end
return 1",
    "local out, left = {}, tonumber(ARGV[1])
for i, key in ipairs(KEYS) do
  if left <= 0 then break end
  local items = redis.pcall('LPOP', key, left)
  if type(items) == 'table' and not items.err then
    for _, item in ipairs(items) do
      out[#out + 1] = i
      out[#out + 1] = item
    end
    left = left - #items
  end
end
return out",
    "local mine = redis.call('HINCRBY', KEYS[1], ARGV[1], 1)
local done = tonumber(redis.call('HGET', KEYS[1], '') or '0')
local time = redis.call('TIME')
redis.call('HSETNX', KEYS[1], '@', string.format('%.0f', time[1] * 1000000 + time[2]))
if mine == 1 and done > 0 and tonumber(ARGV[3]) > tonumber(redis.call('HGET', KEYS[1], '@')) then
  redis.call('HSET', KEYS[1], ARGV[1], done)
  mine = done
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
if mine <= done then return 0 end
redis.call('HSET', KEYS[1], '', mine)
return 1",
    "local out = {}
for i, item in ipairs(ARGV) do out[i] = redis.call('LREM', KEYS[1], -1, item) end
return out",
    "for _, key in ipairs(KEYS) do
  redis.call('RPUSH', key, ARGV[1])
  redis.call('PEXPIRE', key, ARGV[2])
end
return 1",
    stream_scripts::TAKE_OVER,
    stream_scripts::BURY,
    stream_scripts::RESEND,
    stream_scripts::TIDY,
    stream_scripts::KEEP,
    stream_scripts::SETTLE,
    stream_scripts::CLAIM_KEY,
    stream_scripts::CONCLUDE,
    stream_scripts::OVERTAKEN,
    stream_scripts::REMOVE,
];

/// The scripts with their digests, and whether the broker has them.
pub(super) struct Scripts {
    /// Their digests, as the broker named them; empty while it does not have them.
    digests: Vec<String>,
}

impl Scripts {
    pub(super) const COUNT: usize = SOURCES.len();

    /// Scripts that the broker does not have yet.
    pub(super) fn new() -> Self {
        Self { digests: Vec::new() }
    }

    /// Appends the commands that load all scripts, [`COUNT`](Self::COUNT) of them.
    pub(super) fn load(out: &mut Vec<u8>) {
        for source in SOURCES {
            resp::command(out, &[b"SCRIPT", b"LOAD", source.as_bytes()]);
        }
    }

    /// Takes in the answers to [`load`](Self::load). While not all are loaded, each call sends its script in full,
    /// which gives an error where errors are handled.
    pub(super) fn loaded(&mut self, answers: &[Value]) {
        let digests = answers.iter().map(|answer| answer.as_str().map(str::to_owned));
        let digests = digests.collect::<Option<Vec<_>>>();
        self.digests = digests
            .filter(|digests| digests.len() == Self::COUNT)
            .unwrap_or_default();
    }

    /// Loads all scripts on a connection of its own.
    pub(super) async fn open(link: &mut Link) -> Result<Self, LinkError> {
        let mut commands = Vec::new();
        Self::load(&mut commands);
        let mut scripts = Self::new();
        scripts.loaded(&link.ask(&commands, Self::COUNT, SILENCE).await?);
        Ok(scripts)
    }

    /// The broker does not know the scripts any more.
    pub(super) fn forget(&mut self) {
        self.digests.clear();
    }

    /// Begins a call with its keys; so many arguments follow as words.
    pub(super) fn begin(&self, out: &mut Vec<u8>, script: Script, keys: &[&str], arguments: usize) {
        let index = script as usize;
        resp::begin(out, 3 + keys.len() + arguments);
        if let Some(digest) = self.digests.get(index) {
            resp::word(out, b"EVALSHA");
            resp::word(out, digest.as_bytes());
        } else {
            resp::word(out, b"EVAL");
            resp::word(out, SOURCES[index].as_bytes());
        }
        resp::word(out, itoa::Buffer::new().format(keys.len()).as_bytes());
        for key in keys {
            resp::word(out, key.as_bytes());
        }
    }
}
