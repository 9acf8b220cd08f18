//! Beside step 4: many sends in flight reorder and tear what one send in flight does not.

use crate::reordering::{answers, many_in_flight, one_in_flight, report};

#[test]
fn step_4_with_many_sends_in_flight_nothing_is_lost_but_the_order() {
    let whole: Vec<u8> = answers().flatten().collect();
    assert_eq!(one_in_flight(), whole);
    let sorted = |mut bytes: Vec<u8>| {
        bytes.sort_unstable();
        bytes
    };
    let (mut late, mut broken) = (0, 0);
    for schedule in 0..1024 {
        let came = many_in_flight(schedule);
        assert_ne!(came, whole, "schedule {schedule}");
        assert_eq!(sorted(came), sorted(whole.clone()), "schedule {schedule}");
        let page = report(schedule);
        late += usize::from(page.contains("too late"));
        broken += usize::from(page.contains("broken"));
    }
    assert_eq!((late, broken), (1024, 1024), "a line comes late, one is torn");
}

/// The chapter shows this file.
#[test]
fn step_4_the_page_of_the_chapter_is_what_the_program_prints() {
    assert_eq!(report(5), include_str!("reordering.txt").replace("\r\n", "\n"));
}
