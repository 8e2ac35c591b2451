//! Rate limits: named rules, each with a budget a user, the same over HTTP, WebSocket and Socket.IO.
//!
//! The store charges an action before its effect, so that a refused one leaves nothing behind, and gives the charge back when the
//! action turns out to be a repetition of what is stored (INV-IDEM), or could not be done now. An action beyond its budget that is
//! a repetition is answered as ever: the store looks before it refuses. A refusal names its rule and says when the action may
//! succeed. An action that is early by little waits for its time instead.
//!
//! Budgets are of a fixed size in memory (INV-BOUND), and this node's own: a user of several nodes has one on each. After a crash,
//! every budget is whole.

mod budgets;
mod rule;

use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub use self::rule::Rate;

use self::budgets::{Budgets, Taken};
use crate::error::{Error, Result};
use crate::ids::UserId;
use crate::metrics;
use crate::settings::check::{Check, Problem};
use crate::settings::{Span, size};

/// The rules. Their names are those of the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Messages of one user.
    Messages,
    /// The same over a longer time.
    MessagesLong,
    /// Conversations that one user starts: groups, and direct ones that are new.
    Conversations,
    /// Channels that one user starts.
    Channels,
    /// Requests of one user that add members to conversations.
    Additions,
    /// Messages that one user reports.
    Reports,
}

impl Rule {
    /// Its name, which is its key in the configuration's section `guard`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::MessagesLong => "messages_long",
            Self::Conversations => "conversations",
            Self::Channels => "channels",
            Self::Additions => "additions",
            Self::Reports => "reports",
        }
    }
}

/// An action that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The rule.
    pub rule: Rule,
    /// How often the rule allows the action.
    pub rate: Rate,
    /// After how long the action may succeed.
    pub retry_after: Duration,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rule, rate) = (self.rule.name(), self.rate);
        let seconds = self.retry_after.as_millis().div_ceil(1000);
        write!(
            f,
            "the limit `{rule}` allows {rate}; try again in {seconds} s"
        )
    }
}

/// Whether the rules hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// What is beyond a rule is refused.
    Enforce,
    /// What is beyond a rule is counted, and done.
    #[default]
    Shadow,
    /// Nothing is counted.
    Off,
}

/// The configuration's section `guard`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GuardSettings {
    /// Whether the rules hold: `enforce`, `shadow` or `off`.
    pub mode: Mode,
    /// Rules beyond which actions are counted and done while the other rules hold.
    pub shadow: Vec<Rule>,
    /// Longest wait of an action that is early, instead of a refusal. At most 5 s; 0 refuses at once.
    pub slow_down: Span,
    /// Memory for the budgets of users. 64 KiB to 1 GiB.
    #[serde(with = "size")]
    pub memory: usize,
    /// [`Rule::Messages`].
    pub messages: Rate,
    /// [`Rule::MessagesLong`].
    pub messages_long: Rate,
    /// [`Rule::Conversations`].
    pub conversations: Rate,
    /// [`Rule::Channels`].
    pub channels: Rate,
    /// [`Rule::Additions`].
    pub additions: Rate,
    /// [`Rule::Reports`].
    pub reports: Rate,
}

impl Default for GuardSettings {
    fn default() -> Self {
        Self {
            mode: Mode::Shadow,
            shadow: Vec::new(),
            slow_down: Span::secs(1),
            memory: 4 << 20,
            messages: Rate::new(60, Span::secs(60), 20),
            messages_long: Rate::new(1000, Span::secs(3600), 1000),
            conversations: Rate::new(30, Span::secs(3600), 30),
            channels: Rate::new(5, Span::secs(3600), 5),
            additions: Rate::new(20, Span::secs(3600), 20),
            reports: Rate::new(20, Span::secs(3600), 20),
        }
    }
}

impl GuardSettings {
    /// No rules, as for jobs, and for programs that use the store without a server.
    #[must_use]
    pub fn off() -> Self {
        Self {
            mode: Mode::Off,
            ..Self::default()
        }
    }

    fn rate(&self, rule: Rule) -> Rate {
        match rule {
            Rule::Messages => self.messages,
            Rule::MessagesLong => self.messages_long,
            Rule::Conversations => self.conversations,
            Rule::Channels => self.channels,
            Rule::Additions => self.additions,
            Rule::Reports => self.reports,
        }
    }

    fn mode(&self, rule: Rule) -> Mode {
        match self.mode {
            Mode::Enforce if self.shadow.contains(&rule) => Mode::Shadow,
            mode => mode,
        }
    }

    /// What is wrong with these settings; empty when nothing is.
    #[must_use]
    pub fn check(&self) -> Vec<Problem> {
        let mut check = Check::of("guard");
        check.within("slow_down", self.slow_down, Span::secs(0), Span::secs(5));
        check.within("memory", self.memory, 64 << 10, 1 << 30);
        check.finish()
    }
}

/// Something that a user does, with the rules that it is charged to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Action {
    /// Sending a message.
    Send,
    /// Starting a group or a direct conversation.
    Start,
    /// Starting a channel.
    StartChannel,
    /// Adding members.
    AddMembers,
    /// Reporting a message.
    Report,
}

/// Most rules of one action.
const RULES_MAX: usize = 2;

impl Action {
    fn rules(self) -> &'static [Rule] {
        match self {
            Self::Send => &[Rule::Messages, Rule::MessagesLong],
            Self::Start => &[Rule::Conversations],
            Self::StartChannel => &[Rule::Channels],
            Self::AddMembers => &[Rule::Additions],
            Self::Report => &[Rule::Reports],
        }
    }
}

/// The rate limits of this node.
pub(crate) struct Guard {
    settings: GuardSettings,
    budgets: Budgets,
    start: Instant,
}

/// What an action was charged. It stays charged unless it is given back.
#[must_use]
pub(crate) struct Charge<'a> {
    guard: &'a Guard,
    taken: [Option<Taken>; RULES_MAX],
    /// How long the action has to wait for its time.
    wait: Duration,
}

impl Charge<'_> {
    /// Waits until it is the action's time.
    pub(crate) async fn wait(&self) {
        if self.wait > Duration::ZERO {
            tokio::time::sleep(self.wait).await;
        }
    }

    /// Gives the charge back when the action had no effect of its own, or could not be done now. A deadline that passed leaves it
    /// charged, as the action may have been done.
    pub(crate) fn settle<T>(self, outcome: &Result<T>, is_new: impl FnOnce(&T) -> bool) {
        let counts = match outcome {
            Ok(done) => is_new(done),
            Err(Error::DeadlineExceeded) => true,
            Err(error) => !error.is_retryable(),
        };
        if !counts {
            self.give_back();
        }
    }

    fn give_back(self) {
        for taken in self.taken.into_iter().flatten() {
            self.guard.budgets.give_back(taken);
        }
    }
}

impl Guard {
    pub(crate) fn new(settings: &GuardSettings) -> Self {
        let memory = match settings.mode {
            Mode::Off => 0,
            Mode::Enforce | Mode::Shadow => settings.memory,
        };
        Self {
            settings: settings.clone(),
            budgets: Budgets::new(memory),
            start: Instant::now(),
        }
    }

    /// Charges one `action` of `user`; the caller [waits](Charge::wait) for its time.
    ///
    /// # Errors
    /// [`Error::RateLimited`]; nothing is charged then.
    pub(crate) fn charge(&self, action: Action, user: &UserId) -> Result<Charge<'_>> {
        self.charge_at(action, user, self.start.elapsed())
    }

    /// The same at `now`, the time since this node began.
    fn charge_at(&self, action: Action, user: &UserId, now: Duration) -> Result<Charge<'_>> {
        let mut charge = Charge {
            guard: self,
            taken: [None; RULES_MAX],
            wait: Duration::ZERO,
        };
        for (place, rule) in charge.taken.iter_mut().zip(action.rules()) {
            match self.take(*rule, user, now) {
                Ok(Some((taken, wait))) => {
                    *place = Some(taken);
                    charge.wait = charge.wait.max(wait);
                }
                Ok(None) => {}
                Err(refusal) => {
                    charge.give_back();
                    return Err(Error::RateLimited(Box::new(refusal)));
                }
            }
        }
        Ok(charge)
    }

    /// Takes one use of a rule's budget; nothing where the rule does not hold.
    fn take(
        &self,
        rule: Rule,
        user: &UserId,
        now: Duration,
    ) -> std::result::Result<Option<(Taken, Duration)>, Refusal> {
        let (mode, rate) = (self.settings.mode(rule), self.settings.rate(rule));
        if mode == Mode::Off || rate.is_off() {
            return Ok(None);
        }
        let early = match mode {
            Mode::Enforce => self.settings.slow_down.0,
            Mode::Shadow | Mode::Off => Duration::ZERO,
        };
        let key = (rule as u8, user.as_ref());
        let retry_after = match self.budgets.take(key, rate, (now, early)) {
            Ok(taken) => return Ok(Some(taken)),
            Err(retry_after) => retry_after,
        };
        let how = if mode == Mode::Shadow {
            "shadow"
        } else {
            "refused"
        };
        metrics::LIMITED.with([rule.name(), how]).increment(1);
        if mode == Mode::Shadow {
            return Ok(None);
        }
        Err(Refusal {
            rule,
            rate,
            retry_after,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    /// At once or not at all.
    fn strict() -> GuardSettings {
        GuardSettings {
            mode: Mode::Enforce,
            slow_down: Span::secs(0),
            ..GuardSettings::default()
        }
    }

    fn refused(outcome: Result<Charge<'_>>) -> Refusal {
        match outcome.err() {
            Some(Error::RateLimited(refusal)) => *refusal,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_refusal_names_its_rule_and_charges_no_other() {
        let settings = GuardSettings {
            messages: Rate::new(60, Span::secs(60), 2),
            messages_long: Rate::new(3, Span::secs(3600), 3),
            ..strict()
        };
        let (guard, alice) = (Guard::new(&settings), user("alice"));
        let at = |second| guard.charge_at(Action::Send, &alice, Duration::from_secs(second));
        assert!(at(0).is_ok() && at(0).is_ok());
        let refusal = refused(at(0));
        assert_eq!(refusal.rule, Rule::Messages);
        assert_eq!(refusal.retry_after, Duration::from_secs(1));
        assert_eq!(
            refusal.to_string(),
            "the limit `messages` allows 60 per 1m, burst 2; try again in 1 s"
        );
        assert!(at(10).is_ok());
        for _ in 0..5 {
            let refusal = refused(at(10));
            let wait = refusal.retry_after.as_secs();
            assert_eq!((refusal.rule, wait), (Rule::MessagesLong, 1190));
        }
        let bob = guard.charge_at(Action::Send, &user("bob"), Duration::ZERO);
        assert!(bob.is_ok());
        // The refusals of the longer rule took nothing from the shorter one.
        assert!(at(1200).is_ok());
    }

    #[test]
    fn an_action_that_is_early_waits_and_one_that_is_too_early_is_refused() {
        let settings = GuardSettings {
            messages: Rate::new(60, Span::secs(60), 1),
            mode: Mode::Enforce,
            slow_down: Span::secs(2),
            ..GuardSettings::default()
        };
        let (guard, alice) = (Guard::new(&settings), user("alice"));
        let at = |second| guard.charge_at(Action::Send, &alice, Duration::from_secs(second));
        let waits: Vec<u64> = (0..3).map(|_| at(0).ok().unwrap().wait.as_secs()).collect();
        assert_eq!(waits, [0, 1, 2]);
        // Its time is 3 s from now; 1 s from now it is near enough to wait for it.
        assert_eq!(refused(at(0)).retry_after, Duration::from_secs(1));
        assert_eq!(at(1).ok().unwrap().wait.as_secs(), 2);
    }

    #[test]
    fn what_is_given_back_can_be_used_again() {
        let settings = GuardSettings {
            channels: Rate::new(1, Span::secs(3600), 1),
            ..strict()
        };
        let (guard, alice) = (Guard::new(&settings), user("alice"));
        let start = || guard.charge(Action::StartChannel, &alice);
        for outcome in [Ok(false), Err(Error::Closing)] {
            start().unwrap().settle(&outcome, |is_new| *is_new);
        }
        start().unwrap().settle(&Ok(true), |is_new| *is_new);
        assert_eq!(refused(start()).rule, Rule::Channels);
    }

    #[test]
    fn rules_can_be_watched_before_they_hold() {
        let settings = GuardSettings {
            shadow: vec![Rule::Channels],
            channels: Rate::new(1, Span::secs(3600), 1),
            additions: Rate::new(1, Span::secs(3600), 1),
            ..strict()
        };
        let (guard, alice) = (Guard::new(&settings), user("alice"));
        let mut channels = (0..3).map(|_| guard.charge(Action::StartChannel, &alice));
        assert!(channels.all(|charged| charged.is_ok()));
        assert!(guard.charge(Action::AddMembers, &alice).is_ok());
        assert!(guard.charge(Action::AddMembers, &alice).is_err());
        let off = Guard::new(&GuardSettings {
            mode: Mode::Off,
            ..settings
        });
        assert!((0..3).all(|_| off.charge(Action::AddMembers, &alice).is_ok()));
    }

    #[test]
    fn settings_are_checked() {
        assert_eq!(GuardSettings::default().check(), []);
        let wrong = GuardSettings {
            memory: 1,
            slow_down: Span::secs(60),
            ..GuardSettings::default()
        };
        assert_eq!(wrong.check().len(), 2);
    }

    /// The figure is printed with `--nocapture`; the bound leaves room for a debug build on a busy machine.
    #[test]
    fn a_check_costs_microseconds() {
        let guard = Guard::new(&GuardSettings::default());
        let users: Vec<UserId> = (0..1000).map(|n| user(&format!("user{n}"))).collect();
        let started = Instant::now();
        for _ in 0..20 {
            for user in &users {
                let _ = guard.charge(Action::Send, user).is_ok();
            }
        }
        let each = started.elapsed() / 20_000;
        println!("a send is charged in {each:?}");
        assert!(each < Duration::from_micros(50), "{each:?}");
    }
}
