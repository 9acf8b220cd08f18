//! A ring buffer beside one that is known to be right, for the step and for its starter.

/// Puts in and takes out in sizes that go through every place of the circle, and through full and
/// empty.
macro_rules! circle {
    ($ring:path) => {{
        use $ring as Ring;
        let capacity = 7;
        let (mut ring, mut model) = (Ring::new(capacity), std::collections::VecDeque::<u8>::new());
        let mut next = 0_u8;
        for step in 0..1000_usize {
            let bytes: Vec<u8> = (0..step * 5 % 11).map(|i| next.wrapping_add(i as u8)).collect();
            let taken = ring.write(&bytes);
            assert_eq!(taken, bytes.len().min(capacity - model.len()), "what there is room for");
            model.extend(&bytes[..taken]);
            next = next.wrapping_add(taken as u8);
            assert_eq!(ring.len(), model.len());
            let mut all = vec![0; ring.len()];
            ring.peek(&mut all);
            assert!(model.iter().eq(&all), "{all:?} instead of {model:?}");
            let count = (step * 3 % 8).min(model.len());
            ring.consume(count);
            drop(model.drain(..count));
        }
    }};
}

pub(crate) use circle;
