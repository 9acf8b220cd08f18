//! What each optimisation of step 11 is for, in counts. One test in a process of its own, so that
//! nobody else allocates beside it.

#![cfg(any(unix, windows))]

use wharf_port::{Config, EngineChoice};

#[expect(dead_code, reason = "its main function is not for tests")]
#[path = "../examples/step11_measure/main.rs"]
mod step11;

use step11::load::{Cost, Load, measure};

/// Those that the environment allows and that work here.
fn engines() -> Vec<EngineChoice> {
    let wanted = Config::from_env().unwrap().engine;
    let works = wharf_port::probe().into_iter().filter(|(_, found)| found.is_ok());
    works
        .map(|(engine, _)| EngineChoice::Named(engine))
        .filter(|engine| wanted == EngineChoice::Auto || wanted == *engine)
        .collect()
}

#[test]
fn each_optimisation_of_step_11_saves_what_it_is_for() {
    assert!(!engines().is_empty(), "no engine works here");
    for engine in engines() {
        let load = Load { clients: 4, bursts: 40, ..step11::LOAD };
        let costs: Vec<Cost> = step11::stages()
            .into_iter()
            .map(|(_, tuning, receive_buffer_bytes)| {
                let config = Config { engine, receive_buffer_bytes, ..Config::default() };
                measure(tuning, &config, load).unwrap()
            })
            .collect();
        let [alone, batched, pooled, ring, swapped, gathered, large] = costs[..] else {
            panic!("{costs:?}")
        };
        let messages = alone.messages;
        assert_eq!(messages, 4 * 40 * 16);
        assert!(alone.completions <= alone.waits, "{alone:?}");
        assert!(batched.completions > 2 * batched.waits, "{batched:?}");
        assert!(batched.system_calls < alone.system_calls, "{batched:?}");
        assert!(batched.allocations >= 2 * messages, "{batched:?}");
        assert!(pooled.allocations < messages / 100, "{pooled:?}");
        assert!(pooled.moved_bytes > messages, "{pooled:?}");
        assert_eq!(ring.moved_bytes, 0);
        assert!(ring.locks >= 4 * messages, "{ring:?}");
        assert!(swapped.locks <= 4 * swapped.waits, "{swapped:?}");
        assert!(2 * gathered.completions < swapped.completions, "{gathered:?}");
        assert!(gathered.system_calls < swapped.system_calls, "{gathered:?}");
        assert!(large.completions < gathered.completions, "{large:?}");
    }
}
