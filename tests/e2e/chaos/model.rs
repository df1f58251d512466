//! The state of a user, and the operations that are possible in it.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::Rng;
use proptest::test_runner::TestRng;

/// More apps need more processes than a small machine can run.
const APPS: usize = 2;
const INSTANCES: usize = 3;
const UNITS: usize = 2;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ModelApp {
    /// The text that it serves; none before the first deploy.
    pub(super) text: Option<String>,
    pub(super) variables: BTreeMap<String, String>,
    pub(super) units: usize,
    pub(super) binds: BTreeSet<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ModelState {
    pub(super) apps: BTreeMap<String, ModelApp>,
    pub(super) instances: BTreeSet<String>,
}

#[derive(Clone, Debug)]
pub(super) enum ModelOperation {
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

impl ModelOperation {
    /// Returns true if the operation calls the service.
    pub(super) fn calls_service(&self) -> bool {
        use ModelOperation::{Bind, Deprovision, Less, More, Provision, Remove, Unbind};
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

fn pick_random<'a, T>(rng: &mut TestRng, of: impl IntoIterator<Item = &'a T>) -> Option<&'a T> {
    let all: Vec<&T> = of.into_iter().collect();
    let count = u64::try_from(all.len()).unwrap();
    (count > 0).then(|| all[usize::try_from(rng.next_u64() % count).unwrap()])
}

impl ModelState {
    /// Returns an operation that is possible now. `number` makes its names and texts unique.
    pub(super) fn random_operation(&self, rng: &mut TestRng, who: u64, number: usize) -> ModelOperation {
        loop {
            let die = rng.next_u64() % 24;
            if let Some(operation) = self.random_instance_operation(rng, die, who, number) {
                return operation;
            }
        }
    }

    fn random_instance_operation(
        &self,
        rng: &mut TestRng,
        die: u64,
        who: u64,
        number: usize,
    ) -> Option<ModelOperation> {
        if die < 3 {
            let app = format!("app-{who}-{number}");
            return (self.apps.len() < APPS).then_some(ModelOperation::Create { app });
        }
        if die < 6 {
            let instance = format!("store-{who}-{number}");
            return (self.instances.len() < INSTANCES).then_some(ModelOperation::Provision { instance });
        }
        if die == 6 {
            let is_free = |instance: &&String| !self.apps.values().any(|app| app.binds.contains(*instance));
            let free: Vec<&String> = self.instances.iter().filter(is_free).collect();
            let instance = pick_random(rng, free.iter().copied())?.clone();
            return Some(ModelOperation::Deprovision { instance });
        }
        let name = pick_random(rng, self.apps.keys())?.clone();
        let app = &self.apps[&name];
        self.random_app_operation(rng, die, name, app, number)
    }

    fn random_app_operation(
        &self,
        rng: &mut TestRng,
        die: u64,
        name: String,
        app: &ModelApp,
        number: usize,
    ) -> Option<ModelOperation> {
        let runs = app.text.is_some();
        match die {
            7 => Some(ModelOperation::Remove { app: name }),
            8..=10 => Some(ModelOperation::Deploy {
                app: name,
                text: format!("v{number}"),
            }),
            11..=13 => Some(ModelOperation::Set {
                app: name,
                name: format!("V{}", rng.next_u64() % 3),
                value: format!("value-{number}"),
            }),
            14 => Some(ModelOperation::Unset {
                name: pick_random(rng, app.variables.keys())?.clone(),
                app: name,
            }),
            15..=16 => (runs && app.units < UNITS).then_some(ModelOperation::More { app: name }),
            17 => (runs && app.units > 1).then_some(ModelOperation::Less { app: name }),
            18 => runs.then_some(ModelOperation::Restart { app: name }),
            19..=21 => {
                let instance = pick_random(rng, self.instances.difference(&app.binds))?.clone();
                Some(ModelOperation::Bind { instance, app: name })
            }
            _ => {
                let instance = pick_random(rng, &app.binds)?.clone();
                Some(ModelOperation::Unbind { instance, app: name })
            }
        }
    }

    /// Returns the state after a successful operation.
    pub(super) fn after(&self, operation: &ModelOperation) -> Self {
        let mut world = self.clone();
        match operation {
            ModelOperation::Create { app } => {
                world.apps.insert(app.clone(), ModelApp::default());
            }
            ModelOperation::Remove { app } => {
                world.apps.remove(app);
            }
            ModelOperation::Provision { instance } => {
                world.instances.insert(instance.clone());
            }
            ModelOperation::Deprovision { instance } => {
                world.instances.remove(instance);
            }
            ModelOperation::Deploy { app, .. }
            | ModelOperation::Set { app, .. }
            | ModelOperation::Unset { app, .. }
            | ModelOperation::More { app }
            | ModelOperation::Less { app }
            | ModelOperation::Restart { app }
            | ModelOperation::Bind { app, .. }
            | ModelOperation::Unbind { app, .. } => world.apps.get_mut(app).unwrap().apply(operation),
        }
        world
    }
}

impl ModelApp {
    fn apply(&mut self, operation: &ModelOperation) {
        match operation {
            ModelOperation::Deploy { text, .. } => {
                self.text = Some(text.clone());
                self.units = self.units.max(1);
            }
            ModelOperation::Set { name, value, .. } => {
                self.variables.insert(name.clone(), value.clone());
            }
            ModelOperation::Unset { name, .. } => {
                self.variables.remove(name);
            }
            ModelOperation::More { .. } => self.units += 1,
            ModelOperation::Less { .. } => self.units -= 1,
            ModelOperation::Bind { instance, .. } => {
                self.binds.insert(instance.clone());
            }
            ModelOperation::Unbind { instance, .. } => {
                self.binds.remove(instance);
            }
            _ => {}
        }
    }
}
