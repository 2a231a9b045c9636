//! Accounts with the rights that `docs/least-privilege.md` gives them, made by its very lines.

use crate::{RabbitNode, RedisNode, unique};

const DOCUMENT: &str = include_str!("../../docs/least-privilege.md");
const PASSWORD: &str = "least";

/// A user at a broker.
#[derive(Debug, Clone)]
pub struct Account {
    /// Its name.
    pub user: String,
    /// Its password.
    pub password: String,
}

impl Account {
    /// The URL of a broker for this user.
    ///
    /// # Panics
    /// When it is no URL of a broker on 127.0.0.1.
    pub fn url(&self, url: &str) -> String {
        let (scheme, _) = url.split_once("://").unwrap_or_else(|| panic!("no URL: {url}"));
        let at = url.find("127.0.0.1").unwrap_or_else(|| panic!("not here: {url}"));
        format!("{scheme}://{}:{}@{}", self.user, self.password, &url[at..])
    }

    fn new(role: &str) -> Self {
        Self {
            user: unique(role),
            password: PASSWORD.to_owned(),
        }
    }
}

/// The lines of the document that begin with `command` and are about the user of a role.
fn lines(command: &str, role: &str) -> Vec<&'static str> {
    let user = format!("shop-{role}");
    let found: Vec<_> = DOCUMENT
        .lines()
        .filter(|line| line.starts_with(command) && line.split(' ').any(|word| word == user))
        .collect();
    assert!(!found.is_empty(), "the document says nothing of {user}");
    found
}

impl RedisNode {
    /// Makes an account for a role in a namespace, with rules of the test's own besides.
    ///
    /// # Panics
    /// When the document does not know the role, or Redis refuses its line.
    pub async fn account(&self, role: &str, namespace: &str, more: &[String]) -> Account {
        let account = Account::new(role);
        let [line] = lines("ACL SETUSER ", role)[..] else {
            panic!("more than one line about {role}")
        };
        let line = line
            .replace(&format!("shop-{role}"), &account.user)
            .replace("PASSWORD", PASSWORD)
            .replace("shop", namespace);
        let mut words: Vec<String> = Vec::new();
        for word in line.split(' ') {
            // What stands in parentheses is one argument.
            match words.last_mut() {
                Some(open) if open.starts_with('(') && !open.ends_with(')') => {
                    open.push(' ');
                    open.push_str(word);
                }
                _ => words.push(word.to_owned()),
            }
        }
        words.extend_from_slice(more);
        let answer = self.command(&words).await;
        let said = format!("{answer:?}");
        assert!(said.contains("OK"), "{said} to {words:?}");
        account
    }
}

impl RabbitNode {
    /// Makes an account for a role in the namespaces that match a regular expression.
    ///
    /// # Panics
    /// When the document does not know the role, or RabbitMQ refuses one of its lines.
    pub async fn account(&self, role: &str, namespace: &str) -> Account {
        let account = Account::new(role);
        for line in lines("rabbitmqctl ", role) {
            let line = line
                .replace(&format!("shop-{role}"), &account.user)
                .replace("PASSWORD", PASSWORD)
                .replace("shop", namespace);
            let words: Vec<_> = line
                .split(' ')
                .skip(1)
                .map(|word| word.trim_matches('"'))
                .collect();
            self.ctl(&words).await;
        }
        account
    }
}
