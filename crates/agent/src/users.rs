//! Users of the sandbox, read from its own /etc/passwd and /etc/group. Never asks NSS, and trusts neither file: both
//! belong to whoever is root inside.

use std::io::Read;

use rustix::fs::{FileType, Mode, OFlags};

/// More of a database than this is not read.
const DATABASE_LIMIT: u64 = 1 << 20;

/// A user as commands and file calls need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub home: String,
}

/// Why a name is no user.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    #[error("invalid username: '{0}'")]
    Unknown(String),
}

/// Both databases as text, for one or many look-ups.
pub struct Users {
    passwd: String,
    group: String,
}

impl Users {
    /// Reads both files as they are now; a missing one is empty.
    pub fn read() -> Self {
        Self { passwd: read_database("/etc/passwd"), group: read_database("/etc/group") }
    }

    /// Finds a user by name, `uid` or `uid:gid`. Root and plain numbers need no entry.
    pub fn resolve(&self, wanted: &str) -> Result<Account, UserError> {
        let unknown = || UserError::Unknown(wanted.to_owned());
        let (user, group) =
            wanted.split_once(':').map_or((wanted, None), |(user, group)| (user, Some(group)));
        let mut account = self.by_name(user).or_else(|| self.by_number(user)).ok_or_else(unknown)?;
        if let Some(group) = group {
            account.gid = self.group_id(group).ok_or_else(unknown)?;
        }
        account.groups = self.groups_of(&account);
        Ok(account)
    }

    /// The name of a user, or its number.
    pub fn user_name(&self, uid: u32) -> String {
        name_of(&self.passwd, uid)
    }

    /// The name of a group, or its number.
    pub fn group_name(&self, gid: u32) -> String {
        name_of(&self.group, gid)
    }

    fn entries(&self) -> impl Iterator<Item = Account> {
        self.passwd.lines().filter_map(parse_account)
    }

    fn by_name(&self, name: &str) -> Option<Account> {
        self.entries().find(|account| account.name == name).or_else(|| (name == "root").then(|| bare(0)))
    }

    fn by_number(&self, number: &str) -> Option<Account> {
        let uid = parse_id(number)?;
        Some(self.entries().find(|account| account.uid == uid).unwrap_or_else(|| bare(uid)))
    }

    fn group_id(&self, group: &str) -> Option<u32> {
        let named = self.group.lines().find(|line| line.split(':').next() == Some(group));
        named.and_then(|line| parse_id(line.split(':').nth(2)?)).or_else(|| parse_id(group))
    }

    fn groups_of(&self, account: &Account) -> Vec<u32> {
        let mut groups = vec![account.gid];
        for line in self.group.lines() {
            let mut fields = line.split(':').skip(2);
            let (Some(gid), Some(members)) = (fields.next().and_then(parse_id), fields.next()) else {
                continue;
            };
            if members.split(',').any(|member| member == account.name) && !groups.contains(&gid) {
                groups.push(gid);
            }
        }
        groups
    }
}

/// What is known of a user without an entry.
fn bare(uid: u32) -> Account {
    let (name, home) = if uid == 0 { ("root".into(), "/root") } else { (uid.to_string(), "/") };
    Account { name, uid, gid: 0, groups: Vec::new(), home: home.into() }
}

fn parse_account(line: &str) -> Option<Account> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, uid, gid, _, home, ..] = fields.as_slice() else { return None };
    let home = if home.starts_with('/') { home } else { "/" };
    Some(Account {
        name: (*name).to_owned(),
        uid: parse_id(uid)?,
        gid: parse_id(gid)?,
        groups: Vec::new(),
        home: home.to_owned(),
    })
}

/// An id; the highest one means "unchanged" to the kernel and is none.
fn parse_id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id != u32::MAX)
}

fn name_of(database: &str, id: u32) -> String {
    let named = database.lines().find(|line| line.split(':').nth(2).and_then(parse_id) == Some(id));
    named.and_then(|line| line.split(':').next()).map_or_else(|| id.to_string(), str::to_owned)
}

/// Reads a regular file without ever waiting for anybody: it may have become a fifo.
fn read_database(path: &str) -> String {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let Ok(fd) = rustix::fs::open(path, flags, Mode::empty()) else { return String::new() };
    let regular = rustix::fs::fstat(&fd)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
    let mut bytes = Vec::new();
    if regular && std::fs::File::from(fd).take(DATABASE_LIMIT).read_to_end(&mut bytes).is_err() {
        bytes.clear();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users() -> Users {
        Users {
            passwd: "root:x:0:0:root:/root:/bin/bash\nbroken\nuser:x:1000:1000::/home/user:/bin/bash\n\
                     odd:x:4294967295:0::/:/bin/sh\nnohome:x:7:7:::/bin/sh\n"
                .into(),
            group: "root:x:0:\nsudo:x:27:user,other\nuser:x:1000:\ndup:x:1000:user\nbad:x:q:user\n".into(),
        }
    }

    #[test]
    fn names_and_numbers_resolve() {
        let user = users().resolve("user").unwrap();
        assert_eq!((user.uid, user.gid, user.home.as_str()), (1000, 1000, "/home/user"));
        assert_eq!(user.groups, [1000, 27]);
        assert_eq!(users().resolve("1000").unwrap(), user);
        assert_eq!(users().resolve("user:27").unwrap().gid, 27);
        assert_eq!(users().resolve("user:sudo").unwrap().gid, 27);
        assert_eq!(users().resolve("77:88").unwrap().groups, [88]);
        assert_eq!(users().resolve("nohome").unwrap().home, "/");
    }

    #[test]
    fn an_image_without_a_database_has_root() {
        let empty = Users { passwd: String::new(), group: String::new() };
        assert_eq!(empty.resolve("root").unwrap().uid, 0);
        assert_eq!(empty.resolve("5").unwrap().uid, 5);
        assert_eq!(empty.user_name(5), "5");
    }

    #[test]
    fn anything_else_is_unknown() {
        for name in ["", "nobody", "odd", "4294967295", "-1", "user:none", "user:", ":0"] {
            assert_eq!(users().resolve(name), Err(UserError::Unknown(name.into())), "{name}");
        }
    }

    #[test]
    fn owners_are_named() {
        assert_eq!((users().user_name(1000), users().group_name(27)), ("user".into(), "sudo".into()));
        assert_eq!(users().group_name(99), "99");
    }
}
