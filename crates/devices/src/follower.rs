//! Follows trees of the host for as long as they are bound: waits for a change, and has a copy made.

use crate::{
    error::Error,
    follow::{Follow, Looked},
    mounts::tree,
    steps::Bind,
    watch::{Listener, Watches},
};
use runtime_core::kit::Work;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

/// Who publishes a set makes several changes in a row: what is quiet for so long is done.
const QUIET: Duration = Duration::from_millis(10);
/// And who is never done is looked at all the same.
const SETTLE_MAX: Duration = Duration::from_millis(200);
/// Network file systems tell nothing of what others change.
const LOOK_ANYWAY: Duration = Duration::from_secs(60);
/// The kernel had no watch to give.
const LOOK_UNHEARD: Duration = Duration::from_secs(2);

/// Everybody who follows; clones are the same ones.
#[derive(Clone, Default)]
pub struct Followers {
    watches: Watches,
    held: Arc<Mutex<BTreeMap<PathBuf, Arc<Leash>>>>,
}

/// One place is followed by one at a time: the last who came.
#[derive(Default)]
struct Leash {
    /// Counts who came, and who was told to go.
    turn: watch::Sender<u64>,
    /// Held while a copy is made.
    looking: Mutex<()>,
}

fn place_of(bind: &Bind) -> PathBuf {
    tree(&bind.folder).join(&bind.place)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Followers {
    /// Answers when the place is let go, or when its tree cannot be copied any more.
    pub fn follow(&self, bind: &Bind) -> Work<Result<(), Error>> {
        let leash = lock(&self.held).entry(place_of(bind)).or_default().clone();
        let mine = leash.take();
        let listener = self.watches.listener();
        Box::pin(run(Follow::new(bind), leash, mine, listener))
    }

    /// Nobody follows this bind any more when it answers; it blocks while a copy is being made.
    pub fn let_go(&self, bind: &Bind) {
        let leash = lock(&self.held).remove(&place_of(bind));
        leash.iter().for_each(|leash| leash.cut());
    }

    /// The same for every bind of a sandbox.
    pub fn let_go_below(&self, folder: &Path) {
        let gone: Vec<_> = {
            let mut held = lock(&self.held);
            let tree = tree(folder);
            let below = held.keys().filter(|place| place.starts_with(&tree));
            let below: Vec<_> = below.cloned().collect();
            below
                .iter()
                .filter_map(|place| held.remove(place))
                .collect()
        };
        gone.iter().for_each(|leash| leash.cut());
    }
}

impl Leash {
    fn take(&self) -> u64 {
        self.turn.send_modify(|turn| *turn += 1);
        *self.turn.borrow()
    }

    fn cut(&self) {
        self.take();
        drop(lock(&self.looking));
    }

    /// Nothing where it is somebody else's turn.
    fn look(&self, mine: u64, follow: &mut Follow) -> Result<Option<Looked>, Error> {
        let _looking = lock(&self.looking);
        if *self.turn.borrow() != mine {
            return Ok(None);
        }
        follow.look().map(Some)
    }
}

async fn run(
    mut follow: Follow,
    leash: Arc<Leash>,
    mine: u64,
    mut listener: Listener,
) -> Result<(), Error> {
    loop {
        // Listened to before it is looked at: what changes between is heard of.
        let heard = follow.folders().map(|folders| listener.listen(&folders));
        let outcome;
        (follow, outcome) = look(follow, leash.clone(), mine).await;
        match outcome {
            Ok(None) => return Ok(()),
            // It is looked at again when it has come to rest.
            Ok(Some(_)) | Err(Error::Restless { .. }) => {}
            Err(why) => return Err(why),
        }
        let limit = match heard {
            Ok(Ok(())) => LOOK_ANYWAY,
            Ok(Err(_)) | Err(_) => LOOK_UNHEARD,
        };
        let mut turns = leash.turn.subscribe();
        let cut = turns.wait_for(|turn| *turn != mine);
        tokio::select! {
            biased;
            _ = cut => return Ok(()),
            // Heard or not, it is looked at.
            _ = timeout(limit, listener.changed()) => {}
        }
        settled(&listener).await;
    }
}

async fn look(
    mut follow: Follow,
    leash: Arc<Leash>,
    mine: u64,
) -> (Follow, Result<Option<Looked>, Error>) {
    let looked = tokio::task::spawn_blocking(move || {
        let outcome = leash.look(mine, &mut follow);
        (follow, outcome)
    });
    looked
        .await
        .expect("the work does not panic, and is never cancelled")
}

async fn settled(listener: &Listener) {
    let begun = Instant::now();
    while begun.elapsed() < SETTLE_MAX && timeout(QUIET, listener.changed()).await.is_ok() {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        follow::open_tree,
        steps::{Access, Depth, Shape},
        tree::Tree,
    };
    use std::{
        fs,
        os::{fd::AsFd, unix::fs::symlink},
        sync::atomic::{AtomicBool, Ordering},
    };

    const SOON: Duration = Duration::from_secs(20);

    struct Scene {
        _folder: tempfile::TempDir,
        bind: Bind,
    }

    impl Scene {
        /// A volume with a first set, and a place for its copies.
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let root = folder.path().canonicalize().unwrap();
            let bind = Bind {
                folder: root.clone(),
                place: "1/w0".to_owned(),
                source: root.join("volume"),
                shape: Shape::Copies,
                depth: Depth::Top,
                access: Access::ReadOnly,
            };
            fs::create_dir_all(place_of(&bind)).unwrap();
            fs::create_dir(&bind.source).unwrap();
            let scene = Self {
                _folder: folder,
                bind,
            };
            scene.publish(1);
            symlink("..data/key", scene.bind.source.join("key")).unwrap();
            scene
        }

        /// As Kubernetes does it.
        fn publish(&self, number: u32) {
            let at = |name: &str| self.bind.source.join(name);
            let set = format!("..{number}");
            fs::create_dir(at(&set)).unwrap();
            fs::write(at(&set).join("key"), number.to_string()).unwrap();
            symlink(&set, at("..data_tmp")).unwrap();
            fs::rename(at("..data_tmp"), at("..data")).unwrap();
            let _ = fs::remove_dir_all(at(&format!("..{}", number - 1)));
        }

        fn newest(&self) -> String {
            let place = place_of(&self.bind);
            let turn = fs::read_to_string(place.join("turn")).unwrap_or_default();
            fs::read_to_string(place.join(turn).join("tree/key")).unwrap_or_default()
        }

        async fn shows(&self, text: &str) {
            let begun = Instant::now();
            while self.newest() != text {
                assert!(begun.elapsed() < SOON, "{:?} is shown", self.newest());
                tokio::task::yield_now().await;
            }
        }

        fn copies(&self) -> usize {
            let list = fs::read_dir(place_of(&self.bind)).unwrap();
            list.filter(|entry| entry.as_ref().unwrap().path().is_dir())
                .count()
        }
    }

    fn told(story: impl Future<Output = ()>) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, story);
    }

    async fn let_go(followers: &Followers, bind: &Bind) {
        let (followers, bind) = (followers.clone(), bind.clone());
        let gone = tokio::task::spawn_blocking(move || followers.let_go(&bind));
        gone.await.unwrap();
    }

    #[test]
    fn each_set_that_is_published_is_copied_whole_and_old_copies_go() {
        told(async {
            let (scene, followers) = (Scene::new(), Followers::default());
            let following = tokio::task::spawn_local(followers.follow(&scene.bind));
            scene.shows("1").await;

            for number in 2..6 {
                scene.publish(number);
                scene.shows(&number.to_string()).await;
            }

            let_go(&followers, &scene.bind).await;
            following.await.unwrap().unwrap();
            assert_eq!(scene.copies(), 2);
            assert!(lock(&followers.held).is_empty());
        });
    }

    #[test]
    fn the_last_who_follows_a_place_follows_it_alone() {
        told(async {
            let (scene, followers) = (Scene::new(), Followers::default());
            let first = tokio::task::spawn_local(followers.follow(&scene.bind));
            scene.shows("1").await;

            let second = tokio::task::spawn_local(followers.follow(&scene.bind));

            first.await.unwrap().unwrap();
            scene.publish(2);
            scene.shows("2").await;
            let_go(&followers, &scene.bind).await;
            second.await.unwrap().unwrap();
        });
    }

    #[test]
    fn a_set_that_goes_while_it_is_looked_at_is_no_reason_to_follow_no_more() {
        const LOOKS: usize = 500;
        let scene = Scene::new();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let publishing = scope.spawn(|| {
                let mut number = 2;
                while !over.load(Ordering::Relaxed) {
                    scene.publish(number);
                    number += 1;
                }
                number - 1
            });

            let source = open_tree(&scene.bind.source).unwrap();
            let looks = (0..LOOKS).map(|_| Tree::scan(source.as_fd()));
            let unreadable = looks.filter(Result::is_err).count();

            over.store(true, Ordering::Relaxed);
            let last = publishing.join().unwrap();
            let mut follow = Follow::new(&scene.bind);
            follow.look().unwrap();
            assert_eq!(scene.newest(), last.to_string());
            assert_eq!(unreadable, 0);
        });
    }

    #[test]
    fn a_tree_that_grows_out_of_bounds_ends_it_with_the_reason_and_the_last_copy_stays() {
        told(async {
            let (scene, followers) = (Scene::new(), Followers::default());
            let following = tokio::task::spawn_local(followers.follow(&scene.bind));
            scene.shows("1").await;

            let large = fs::File::create(scene.bind.source.join("large")).unwrap();
            large.set_len(crate::tree::BYTES_MAX + 1).unwrap();

            let ended = following.await.unwrap().unwrap_err();
            assert!(matches!(ended, Error::Unfit { .. }), "{ended:?}");
            assert_eq!(scene.newest(), "1");
            fs::remove_file(scene.bind.source.join("large")).unwrap();
            scene.publish(2);
            let again = tokio::task::spawn_local(followers.follow(&scene.bind));
            scene.shows("2").await;
            let_go(&followers, &scene.bind).await;
            again.await.unwrap().unwrap();
        });
    }

    #[test]
    fn a_daemon_that_begins_anew_copies_only_what_it_missed() {
        told(async {
            let scene = Scene::new();
            let mut earlier = Follow::new(&scene.bind);
            assert_eq!(earlier.look().unwrap(), Looked::Copied);

            let mut later = Follow::new(&scene.bind);
            assert_eq!(later.look().unwrap(), Looked::Same);
            scene.publish(2);
            assert_eq!(later.look().unwrap(), Looked::Copied);
            assert_eq!(scene.newest(), "2");
        });
    }
}
