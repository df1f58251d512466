//! What a user has, and what it may wish for.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::Rng;
use proptest::test_runner::TestRng;

/// More apps cost more processes than a small machine has.
const APPS: usize = 2;
const INSTANCES: usize = 3;
const UNITS: usize = 2;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct App {
    /// What it says; none before the first deploy.
    pub(super) text: Option<String>,
    pub(super) variables: BTreeMap<String, String>,
    pub(super) units: usize,
    pub(super) binds: BTreeSet<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct World {
    pub(super) apps: BTreeMap<String, App>,
    pub(super) instances: BTreeSet<String>,
}

#[derive(Clone, Debug)]
pub(super) enum Wish {
    Create {
        app: String,
    },
    Deploy {
        app: String,
        text: String,
    },
    Set {
        app: String,
        name: String,
        value: String,
    },
    Unset {
        app: String,
        name: String,
    },
    More {
        app: String,
    },
    Less {
        app: String,
    },
    Restart {
        app: String,
    },
    Remove {
        app: String,
    },
    Provision {
        instance: String,
    },
    Bind {
        instance: String,
        app: String,
    },
    Unbind {
        instance: String,
        app: String,
    },
    Deprovision {
        instance: String,
    },
}

impl Wish {
    /// Whether the service has a part in it.
    pub(super) fn calls_service(&self) -> bool {
        use Wish::{Bind, Deprovision, Less, More, Provision, Remove, Unbind};
        matches!(
            self,
            Provision { .. }
                | Bind { .. }
                | Unbind { .. }
                | Deprovision { .. }
                | Remove { .. }
                | More { .. }
                | Less { .. }
        )
    }
}

fn pick<'a, T>(dice: &mut TestRng, of: impl IntoIterator<Item = &'a T>) -> Option<&'a T> {
    let all: Vec<&T> = of.into_iter().collect();
    let count = u64::try_from(all.len()).unwrap();
    (count > 0).then(|| all[usize::try_from(dice.next_u64() % count).unwrap()])
}

impl World {
    /// A wish that can be granted now. `number` makes its names and texts new.
    pub(super) fn wish(&self, dice: &mut TestRng, who: u64, number: usize) -> Wish {
        loop {
            let die = dice.next_u64() % 24;
            if let Some(wish) = self.wish_of(dice, die, who, number) {
                return wish;
            }
        }
    }

    fn wish_of(&self, dice: &mut TestRng, die: u64, who: u64, number: usize) -> Option<Wish> {
        if die < 3 {
            let app = format!("app-{who}-{number}");
            return (self.apps.len() < APPS).then_some(Wish::Create { app });
        }
        if die < 6 {
            let instance = format!("store-{who}-{number}");
            return (self.instances.len() < INSTANCES).then_some(Wish::Provision { instance });
        }
        if die == 6 {
            let is_free = |instance: &&String| !self.apps.values().any(|app| app.binds.contains(*instance));
            let free: Vec<&String> = self.instances.iter().filter(is_free).collect();
            let instance = pick(dice, free.iter().copied())?.clone();
            return Some(Wish::Deprovision { instance });
        }
        let name = pick(dice, self.apps.keys())?.clone();
        let app = &self.apps[&name];
        self.wish_for(dice, die, name, app, number)
    }

    fn wish_for(&self, dice: &mut TestRng, die: u64, name: String, app: &App, number: usize) -> Option<Wish> {
        let runs = app.text.is_some();
        match die {
            7 => Some(Wish::Remove { app: name }),
            8..=10 => Some(Wish::Deploy {
                app: name,
                text: format!("v{number}"),
            }),
            11..=13 => Some(Wish::Set {
                app: name,
                name: format!("V{}", dice.next_u64() % 3),
                value: format!("value-{number}"),
            }),
            14 => Some(Wish::Unset {
                name: pick(dice, app.variables.keys())?.clone(),
                app: name,
            }),
            15..=16 => (runs && app.units < UNITS).then_some(Wish::More { app: name }),
            17 => (runs && app.units > 1).then_some(Wish::Less { app: name }),
            18 => runs.then_some(Wish::Restart { app: name }),
            19..=21 => {
                let instance = pick(dice, self.instances.difference(&app.binds))?.clone();
                Some(Wish::Bind { instance, app: name })
            }
            _ => {
                let instance = pick(dice, &app.binds)?.clone();
                Some(Wish::Unbind { instance, app: name })
            }
        }
    }

    /// The world in which the wish has come true.
    pub(super) fn with(&self, wish: &Wish) -> Self {
        let mut world = self.clone();
        match wish {
            Wish::Create { app } => {
                world.apps.insert(app.clone(), App::default());
            }
            Wish::Remove { app } => {
                world.apps.remove(app);
            }
            Wish::Provision { instance } => {
                world.instances.insert(instance.clone());
            }
            Wish::Deprovision { instance } => {
                world.instances.remove(instance);
            }
            Wish::Deploy { app, .. }
            | Wish::Set { app, .. }
            | Wish::Unset { app, .. }
            | Wish::More { app }
            | Wish::Less { app }
            | Wish::Restart { app }
            | Wish::Bind { app, .. }
            | Wish::Unbind { app, .. } => world.apps.get_mut(app).unwrap().fulfil(wish),
        }
        world
    }
}

impl App {
    fn fulfil(&mut self, wish: &Wish) {
        match wish {
            Wish::Deploy { text, .. } => {
                self.text = Some(text.clone());
                self.units = self.units.max(1);
            }
            Wish::Set { name, value, .. } => {
                self.variables.insert(name.clone(), value.clone());
            }
            Wish::Unset { name, .. } => {
                self.variables.remove(name);
            }
            Wish::More { .. } => self.units += 1,
            Wish::Less { .. } => self.units -= 1,
            Wish::Bind { instance, .. } => {
                self.binds.insert(instance.clone());
            }
            Wish::Unbind { instance, .. } => {
                self.binds.remove(instance);
            }
            _ => {}
        }
    }
}
