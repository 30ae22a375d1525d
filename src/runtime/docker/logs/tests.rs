use super::*;

fn window(max: usize, chunks: &[&str]) -> String {
    let mut window = Window::new(max);
    for chunk in chunks {
        let message = chunk.as_bytes().to_vec().into();
        window.push(LogOutput::StdOut { message });
    }
    window.finish()
}

#[test]
fn the_end_is_kept() {
    assert_eq!(window(5, &["abc", "def"]), "bcdef");
    assert_eq!(window(5, &["abc", "defghijklmnop", "q"]), "mnopq");
    assert_eq!(window(100, &["a\u{1b}[0m\n"]), "a\\u{1b}[0m\n");
    assert_eq!(window(5, &[]), "");
}

#[test]
fn a_flood_does_not_pile_up() {
    let mut window = Window::new(4096);
    for _ in 0..1000 {
        let message = vec![b'x'; 16_384].into();
        window.push(LogOutput::StdErr { message });
        assert!(window.kept.capacity() < 64 * 1024);
    }
    assert_eq!(window.finish().len(), 4096);
}
