use super::*;

/// Of a Service named `backscroll`, and of one named `backscroll-server`.
#[test]
fn the_service_links_of_a_namespace_are_no_settings() {
    let links = [
        ("BACKSCROLL_PORT", "tcp://10.0.0.1:8080"),
        ("BACKSCROLL_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ("BACKSCROLL_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("BACKSCROLL_PORT_8080_TCP_PORT", "8080"),
        ("BACKSCROLL_PORT_8080_TCP_PROTO", "tcp"),
        ("BACKSCROLL_SERVER_PORT", "tcp://10.0.0.2:8080"),
        ("BACKSCROLL_SERVER_SERVICE_HOST", "10.0.0.2"),
        ("BACKSCROLL_SERVICE_HOST", "10.0.0.1"),
        ("BACKSCROLL_SERVICE_PORT", "8080"),
    ];
    let settings = [("BACKSCROLL_DATA_DIR", "elsewhere"), ("PATH", "/bin")];
    let config = load("", &[&links[..], &settings[..]].concat()).unwrap();
    assert_eq!(config.ignored, links.map(|(name, _)| name));
    assert_eq!(config.data_dir, Path::new("elsewhere"));
    assert!(!config.to_toml().unwrap().contains("ignored"));
}

/// A number without a unit is refused with the form that is right, wherever it comes from.
#[test]
fn sizes_times_and_rates_have_units() {
    let all = Config::default().to_toml().unwrap();
    let (mut sizes, mut times, mut rates) = (0, 0, 0);
    let mut section = "";
    for line in all.lines() {
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_end_matches(']');
            continue;
        }
        let Some((key, value)) = line.split_once(" = ") else {
            continue;
        };
        let value = value.trim_matches('"');
        let unit = value.rsplit(' ').next().unwrap();
        let form = if unit.ends_with('B') {
            sizes += 1;
            continue; // a number is bytes
        } else if value.contains(" per ") {
            rates += 1;
            "\"60 per 1m, burst 20\""
        } else if value.starts_with(|first: char| first.is_ascii_digit())
            && unit.ends_with(|last: char| last.is_ascii_lowercase())
        {
            times += 1;
            "\" or \"" // two examples, of a duration or of an age
        } else {
            continue;
        };
        let variable = format!("BACKSCROLL_{section}__{key}").to_ascii_uppercase();
        let by_file = load(&format!("[{section}]\n{key} = 3600"), &[]);
        let by_variable = load("", &[(&variable, "3600")]);
        for loaded in [by_file, by_variable] {
            let is_named = |error: &ConfigError| {
                let problem = &error.problems[0];
                problem.key == format!("{section}.{key}") && problem.problem.contains(form)
            };
            assert!(is_named(&loaded.unwrap_err()), "{section}.{key} = {value}");
        }
    }
    let seen = (sizes >= 12, times >= 20, rates >= 5);
    assert_eq!(seen, (true, true, true), "{all}");
}

#[test]
fn a_service_listens_where_people_say() {
    for text in ["localhost:8080", ":8080", "[::1]:8080", "0.0.0.0:80"] {
        let by_file = load(&format!("[server]\nlisten = \"{text}\""), &[]).unwrap();
        let by_variable = load("", &[("BACKSCROLL_SERVER__LISTEN", text)]).unwrap();
        assert_eq!(by_file.server.listen.to_string(), text);
        assert_eq!(by_variable, by_file);
    }
    for wrong in ["8080", "localhost", "::1:80"] {
        let (keys, message) = problems("", &[("BACKSCROLL_SERVER__LISTEN", wrong)]);
        assert_eq!(keys, ["server.listen"], "{message}");
        assert!(
            message.contains("or \":8080\" for every address"),
            "{message}"
        );
    }
}

#[test]
fn unknown_options_of_an_address_are_refused() {
    let with = |url: &str| {
        format!(
            "[auth]\nsecret = \"0123456789abcdef0123456789abcdef\"\n[directory]\nurl = \"mysql://h/d\"\n\
             [object_store]\npath = \"/mnt\"\n[[shards]]\nname = \"a\"\nprimary = \"{url}\""
        )
    };
    for right in [
        "?ssl-mode=REQUIRED&ssl-ca=/a",
        "?sslmode=DISABLED",
        "?socket=/s",
        "?",
        "",
    ] {
        load(&with(&format!("mysql://h/a{right}")), &[]).unwrap();
    }
    for wrong in ["ssl_mode=REQUIRED", "ssl-mod=x", "charset=latin1", "x"] {
        let (keys, message) = problems(&with(&format!("mysql://h/a?{wrong}")), &[]);
        assert_eq!(keys, ["shards.0.primary"], "{wrong}: {message}");
        let known = "the options are ssl-mode, ssl-ca, ssl-cert, ssl-key, socket";
        assert!(message.contains(known), "{message}");
    }
    let redis = "[redis]\nurl = \"redis://h:6379/0?protocol=resp3\"";
    let (keys, message) = problems(redis, &[]);
    assert_eq!(keys, ["redis.url"], "{message}");
}
