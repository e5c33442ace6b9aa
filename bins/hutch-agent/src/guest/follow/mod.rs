//! Small trees of the host that are published whole: the host keeps copies in the share, and each
//! is fetched into memory and takes the place of the one before. So a container sees each set
//! whole, and inotify tells of it, neither of which a shared folder can do.
//!
//! The guest asks: once in a second it looks at the number of the newest copy of each tree, as
//! long as there is one. A link to the host that is down costs nothing but the time.

mod replace;

use crate::{
    error::{Doing, Error},
    rootfs,
};
use nix::mount::{MsFlags, mount};
use replace::Places;
use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// Where trees are; a file system of its own, since what is in them may be run.
const TREES: &str = "/run/hutch/w";
/// As long as the kernel believes what it knows of a shared folder: no bind is slower or faster.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);
/// For so many looks a folder that is gone is still there: whoever was on the way into it, or is in it,
/// may be a guest's only process that gets no processor for seconds.
const GONE_LOOKS: u32 = 10;
/// So many folders that are gone are kept at most; each may hold a whole set.
const GONE_MAX: usize = 4;
/// The host may be replacing a copy that is looked for; this often in a row is a failure.
const MISSES_MAX: u32 = 3;
/// The host lists fewer files.
const WRITTEN_BYTES_MAX: u64 = 1024 * 1024;

/// One tree of one mount. Dropping it takes it away.
#[derive(Debug)]
pub struct Followed {
    /// In the share.
    copies: PathBuf,
    place: PathBuf,
    state: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    turn: u64,
    misses: u32,
    /// Folders that are gone and still shown, the oldest first, each with the looks that it has left.
    gone: Vec<(PathBuf, u32)>,
}

/// Whatever has to be looked at.
#[derive(Debug, Default)]
pub struct Follower(Mutex<Vec<Weak<Followed>>>);

impl Followed {
    /// Fetches the newest copy.
    ///
    /// # Errors
    /// The host has none, or it cannot be kept.
    pub fn open(copies: &Path) -> Result<Self, Error> {
        mount_trees()?;
        Self::open_in(Path::new(TREES), rootfs::in_share(copies)?)
    }

    fn open_in(trees: &Path, copies: PathBuf) -> Result<Self, Error> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let place = trees.join(number.to_string());
        fs::create_dir(&place).doing(|| format!("make {}", place.display()))?;
        let turn = read_turn(&copies);
        let followed = Self {
            copies,
            place,
            state: Mutex::default(),
        };
        let turn = turn?;
        let newest = followed.copies.join(&turn).join("tree");
        replace::copy(&newest, &followed.shown())?;
        followed.state().turn = number_of(&turn)?;
        Ok(followed)
    }

    /// What containers look at.
    pub fn shown(&self) -> PathBuf {
        self.place.join("shown")
    }

    fn state(&self) -> MutexGuard<'_, Seen> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over the newest copy, if there is another one; says so when that fails for good.
    fn look(&self) {
        let mut seen = self.state();
        self.forget(&mut seen);
        match self.renew(&mut seen) {
            Ok(()) => seen.misses = 0,
            Err(error) => {
                seen.misses += 1;
                if seen.misses == MISSES_MAX {
                    crate::error!("{}", error.chain());
                }
            }
        }
    }

    /// Takes away what has been gone for long enough.
    fn forget(&self, seen: &mut Seen) {
        let spare = seen.gone.len().saturating_sub(GONE_MAX);
        for (_, left) in seen.gone.iter_mut().take(spare) {
            *left = 1;
        }
        seen.gone.retain_mut(|(folder, left)| {
            *left -= 1;
            if *left > 0 {
                return true;
            }
            if let Err(error) = remove(&self.shown().join(folder)) {
                crate::error!("{}", error.chain());
            }
            false
        });
    }

    fn renew(&self, seen: &mut Seen) -> Result<(), Error> {
        let name = read_turn(&self.copies)?;
        let turn = number_of(&name)?;
        if turn == seen.turn {
            return Ok(());
        }
        let (next, newest) = (self.place.join("next"), self.copies.join(&name));
        remove(&next)?;
        // Whole, before anything of it is shown.
        replace::copy(&newest.join("tree"), &next)?;
        let written = match turn == seen.turn.wrapping_add(1) {
            true => read_written(&newest.join("written"))?,
            // What happened to the copies between is not known any more.
            false => BTreeSet::new(),
        };
        let places = Places {
            shown: &self.shown(),
            next: &next,
        };
        let gone: BTreeSet<PathBuf> = replace::replace(&places, &written)?.into_iter().collect();
        // What came back is not gone any more.
        seen.gone.retain(|(folder, _)| gone.contains(folder));
        let known: BTreeSet<PathBuf> = seen.gone.iter().map(|(folder, _)| folder.clone()).collect();
        let new = gone.into_iter().filter(|folder| !known.contains(folder));
        seen.gone.extend(new.map(|folder| (folder, GONE_LOOKS)));
        seen.turn = turn;
        remove(&next)
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.place) {
            crate::error!("remove {}: {error}", self.place.display());
        }
    }
}

impl Follower {
    /// Looks after these from now on, and as long as somebody holds one.
    pub fn add(self: &Arc<Self>, followed: &[Arc<Followed>]) {
        let mut all = self.all();
        let was_empty = all.is_empty();
        all.extend(followed.iter().map(Arc::downgrade));
        if was_empty && !all.is_empty() {
            tokio::spawn(self.clone().run());
        }
    }

    fn all(&self) -> MutexGuard<'_, Vec<Weak<Followed>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let alive: Vec<Arc<Followed>> = {
                let mut all = self.all();
                all.retain(|followed| followed.strong_count() > 0);
                if all.is_empty() {
                    return;
                }
                all.iter().filter_map(Weak::upgrade).collect()
            };
            let look = move || alive.iter().for_each(|followed| followed.look());
            // One that panics is no reason to look at none any more.
            let _ = tokio::task::spawn_blocking(look).await;
        }
    }
}

fn mount_trees() -> Result<(), Error> {
    static MOUNTED: Mutex<bool> = Mutex::new(false);
    let mut mounted = MOUNTED.lock().unwrap_or_else(PoisonError::into_inner);
    if !*mounted {
        fs::create_dir_all(TREES).doing(|| format!("make {TREES}"))?;
        let options = Some("mode=0700");
        mount(
            Some("tmpfs"),
            TREES,
            Some("tmpfs"),
            MsFlags::empty(),
            options,
        )
        .doing(|| format!("mount memory on {TREES}"))?;
        *mounted = true;
    }
    Ok(())
}

fn remove(folder: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).doing(|| format!("remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// The name of the newest copy.
fn read_turn(copies: &Path) -> Result<String, Error> {
    let path = copies.join("turn");
    fs::read_to_string(&path).doing(|| format!("read {}", path.display()))
}

fn number_of(turn: &str) -> Result<u64, Error> {
    let number = u64::from_str_radix(turn, 16).ok();
    number
        .filter(|_| turn.len() == 16)
        .ok_or_else(|| Error::Invalid {
            what: format!(
                "number of a copy {:?}",
                turn.chars().take(32).collect::<String>()
            ),
            why: "is not one",
        })
}

fn read_written(path: &Path) -> Result<BTreeSet<PathBuf>, Error> {
    let step = || format!("read {}", path.display());
    if fs::metadata(path).doing(step)?.len() > WRITTEN_BYTES_MAX {
        return Ok(BTreeSet::new());
    }
    let list = fs::read(path).doing(step)?;
    let paths = list
        .split(|byte| *byte == 0)
        .filter(|path| !path.is_empty());
    Ok(paths
        .map(|path| PathBuf::from(OsStr::from_bytes(path)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The host's side, as it leaves it.
    fn publish(copies: &Path, turn: u64, text: &str) {
        let copy = copies.join(format!("{turn:016x}"));
        fs::create_dir_all(copy.join("tree")).unwrap();
        fs::write(copy.join("tree/key"), text).unwrap();
        fs::write(copy.join("written"), "").unwrap();
        fs::write(copies.join("turn"), format!("{turn:016x}")).unwrap();
    }

    fn text(followed: &Followed) -> String {
        fs::read_to_string(followed.shown().join("key")).unwrap()
    }

    #[test]
    fn the_newest_copy_is_shown_and_a_half_made_one_is_not() {
        let (trees, copies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (trees, copies) = (trees.path(), copies.path());
        assert!(Followed::open_in(trees, copies.to_owned()).is_err());
        publish(copies, 4, "four");

        let followed = Followed::open_in(trees, copies.to_owned()).unwrap();
        assert_eq!(text(&followed), "four");
        publish(copies, 5, "five");
        followed.look();
        assert_eq!(text(&followed), "five");
        for torn in ["00000000000000", "000000000000000x", "0000000000000009"] {
            fs::write(copies.join("turn"), torn).unwrap();
            followed.look();
            assert_eq!(text(&followed), "five");
        }
        publish(copies, 9, "nine");
        followed.look();
        assert_eq!(text(&followed), "nine");

        drop(followed);
        assert_eq!(fs::read_dir(trees).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_that_is_gone_stays_for_a_while_and_of_many_the_newest_stay() {
        let (trees, copies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (trees, copies) = (trees.path(), copies.path());
        let publish = |turn: u64| {
            publish(copies, turn, "text");
            let set = copies.join(format!("{turn:016x}/tree/set{turn}"));
            fs::create_dir(set).unwrap();
        };
        publish(0);
        let followed = Followed::open_in(trees, copies.to_owned()).unwrap();
        let shown = |turn: u64| followed.shown().join(format!("set{turn}")).exists();

        publish(1);
        followed.look();
        for _ in 1..GONE_LOOKS {
            followed.look();
            assert!(shown(0) && shown(1));
        }
        followed.look();
        assert!(!shown(0) && shown(1));

        for turn in 2..20 {
            publish(turn);
            followed.look();
        }
        let left = (0..20).filter(|turn| shown(*turn)).count();
        assert!((2..=GONE_MAX + 2).contains(&left), "{left} are left");
        assert!(shown(19) && shown(18));
    }

    #[tokio::test(start_paused = true)]
    async fn all_are_looked_at_until_nobody_holds_one() {
        let (trees, copies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        publish(copies.path(), 0, "zero");
        let open = || Followed::open_in(trees.path(), copies.path().to_owned()).unwrap();
        let (one, two) = (Arc::new(open()), Arc::new(open()));
        let follower = Arc::<Follower>::default();
        follower.add(&[one.clone(), two.clone()]);

        publish(copies.path(), 1, "one");
        while [&one, &two].map(|followed| text(followed)) != ["one", "one"] {
            tokio::time::sleep(LOOK_EVERY).await;
        }

        drop((one, two));
        while !follower.all().is_empty() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}
