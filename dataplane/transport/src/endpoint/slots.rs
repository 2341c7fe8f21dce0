//! A table whose entries keep their place and whose keys go stale: a key names a slot and the generation of
//! what was put there.

/// Names an entry; stale once the entry is removed
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SlotKey {
    /// Place in the table
    pub slot: u32,
    /// Counts what has been put there
    pub generation: u32,
}

/// A table of `T`
#[derive(Debug)]
pub struct Slots<T> {
    entries: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
    used: usize,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), free: Vec::new(), used: 0 }
    }
}

impl<T> Slots<T> {
    /// Puts an entry into a free slot
    pub fn insert(&mut self, value: T) -> SlotKey {
        self.used += 1;
        if let Some(slot) = self.free.pop() {
            let (generation, entry) = &mut self.entries[slot as usize];
            *entry = Some(value);
            return SlotKey { slot, generation: *generation };
        }
        self.entries.push((0, Some(value)));
        SlotKey { slot: (self.entries.len() - 1) as u32, generation: 0 }
    }

    /// The entry, unless the key is stale
    pub fn get(&self, key: SlotKey) -> Option<&T> {
        let (generation, entry) = self.entries.get(key.slot as usize)?;
        entry.as_ref().filter(|_| *generation == key.generation)
    }

    /// The entry, unless the key is stale
    pub fn get_mut(&mut self, key: SlotKey) -> Option<&mut T> {
        let (generation, entry) = self.entries.get_mut(key.slot as usize)?;
        if *generation == key.generation { entry.as_mut() } else { None }
    }

    /// Takes the entry out; its key and all copies of it go stale
    pub fn remove(&mut self, key: SlotKey) -> Option<T> {
        let (generation, entry) = self.entries.get_mut(key.slot as usize)?;
        if *generation != key.generation {
            return None;
        }
        let value = entry.take()?;
        *generation = generation.wrapping_add(1);
        self.free.push(key.slot);
        self.used -= 1;
        Some(value)
    }

    /// Entries held
    pub fn len(&self) -> usize {
        self.used
    }

    /// Every entry with its key
    pub fn iter(&self) -> impl Iterator<Item = (SlotKey, &T)> {
        self.entries.iter().enumerate().filter_map(|(slot, (generation, entry))| {
            let key = SlotKey { slot: slot as u32, generation: *generation };
            entry.as_ref().map(|entry| (key, entry))
        })
    }

    /// Every key
    pub fn keys(&self) -> Vec<SlotKey> {
        self.iter().map(|(key, _)| key).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_entry_is_not_found_by_its_old_key() {
        let mut slots = Slots::default();
        let first = slots.insert("a");
        assert_eq!(slots.remove(first), Some("a"));
        let second = slots.insert("b");
        assert_eq!(first.slot, second.slot);
        assert_eq!(slots.get(first), None);
        assert_eq!(slots.remove(first), None);
        assert_eq!(slots.get(second), Some(&"b"));
        assert_eq!(slots.len(), 1);
    }
}
