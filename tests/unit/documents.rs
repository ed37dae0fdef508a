//! What the documents say is true: sizes, links, names, counts. What they show is run by the tests
//! of its subject (`support::documents`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};
use std::process::Command;

use appserver::config::VARIABLES;
use support::documents::{block, blocks, files, text, top};

const README: &str = "README.md";
const AUDIT_GUIDE: &str = "src/README.md";

/// README, and every document below the folders of the source.
fn documents() -> Vec<String> {
    let below = ["src", "static", "tests"].map(|folder| files(folder, ".md")).concat();
    [vec![README.to_owned()], below].concat()
}

/// Without fenced blocks: links, headings and tables are looked for in what is left.
fn prose(path: &str) -> String {
    let whole = text(path);
    let parts = whole.split("\n```").step_by(2);
    parts.map(|part| part.to_owned() + "\n").collect()
}

/// README's halves: English (with the licence), and Chinese.
fn halves() -> (String, String) {
    let readme = text(README);
    let (before, rest) = readme.split_once("\n## 中文\n").expect("a Chinese half");
    let (chinese, licence) = rest.split_once("\n## Licence\n").expect("the licence after it");
    (format!("{before}\n\n## Licence\n{licence}"), format!("## 中文\n{chinese}"))
}

/// The rows of every table whose head begins with this cell; without the head.
fn tables(text: &str, first_cell: &str) -> Vec<Vec<String>> {
    let (mut rows, mut inside) = (Vec::new(), false);
    for line in text.lines() {
        let cells = line.trim().strip_prefix("| ").and_then(|line| line.strip_suffix(" |"));
        let Some(cells) = cells else {
            inside &= line.starts_with("|---");
            continue;
        };
        let cells: Vec<String> = cells.split(" | ").map(|cell| cell.trim().to_owned()).collect();
        if inside {
            rows.push(cells);
        } else {
            inside = cells[0] == first_cell;
        }
    }
    rows
}

/// What stands in backquotes.
fn quoted(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// 4379 is 4,379.
fn with_comma(number: usize) -> String {
    format!("{},{:03}", number / 1000, number % 1000)
}

/// README: the size of its halves is limited.
#[test]
fn readme_is_short() {
    let (english, chinese) = halves();
    let sizes = [english.len(), chinese.len(), text(README).len()];
    println!("English {} bytes, Chinese {}, in all {}", sizes[0], sizes[1], sizes[2]);
    assert!(sizes[0] <= 16_384, "the English half has {} bytes", sizes[0]);
    assert!(sizes[1] <= 8_192, "the Chinese half has {} bytes", sizes[1]);
    assert!(sizes[2] < 24 * 1024, "README has {} bytes", sizes[2]);
}

/// As GitHub makes them: letters, digits, `-` and `_` of the heading, blanks as `-`.
fn anchors(path: &str) -> BTreeSet<String> {
    let (mut anchors, mut seen) = (BTreeSet::new(), BTreeMap::<String, usize>::new());
    for line in prose(path).lines().filter(|line| line.starts_with('#')) {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = |c: &char| c.is_alphanumeric() || matches!(c, '-' | '_' | ' ');
        let slug: String = title.chars().filter(kept).collect::<String>().replace(' ', "-");
        let before = seen.entry(slug.clone()).or_default();
        anchors.insert(if *before == 0 { slug } else { format!("{slug}-{before}") });
        *before += 1;
    }
    anchors
}

/// `a/b/../c` as `a/c`; none if it leaves the repository.
fn plain(path: &Path) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(parts.pop()?),
            Component::Normal(part) => parts.push(part.to_str()?),
            _ => {}
        }
    }
    Some(parts.join("/"))
}

/// Links and anchors between the documents exist, and every document is linked to.
#[test]
fn every_link_between_the_documents_resolves() {
    let documents = documents();
    assert!(documents.len() >= 5, "{documents:?}");
    let (mut links, mut anchored, mut linked) = (0, 0, BTreeSet::new());
    for document in &documents {
        // Inline code holds no links.
        let prose: String = prose(document).split('`').step_by(2).collect();
        for target in prose.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let folder = Path::new(document).parent().unwrap();
            let file = match file {
                "" => document.clone(),
                file => plain(&folder.join(file)).unwrap_or_else(|| panic!("{document}: {target}")),
            };
            assert!(top().join(&file).exists(), "{document}: nothing is at {target}");
            if !anchor.is_empty() {
                let anchors = anchors(&file);
                assert!(anchors.contains(anchor), "{document}: {target} is none of {anchors:#?}");
                anchored += 1;
            }
            links += 1;
            linked.insert(file);
        }
    }
    assert!(links > 40 && anchored > 15, "{links} links, {anchored} with an anchor were found");
    let lost = documents.iter().find(|document| *document != README && !linked.contains(*document));
    assert_eq!(lost, None, "no document links to it");
}

/// The default that a document gives, as the table of `config.rs` has it.
fn default_of(cell: &str) -> &str {
    match cell.trim_matches('`') {
        "required" | "none" | "empty" | "any" => "",
        // Depends on other variables.
        cell if cell.starts_with("from ") || cell.contains("REGION") || cell == "OSS_HOST" => "",
        cell if cell.starts_with("filename=${object}&") => "",
        cell => cell,
    }
}

/// Environment variables: the tables of the documents have each of them once, with its default.
#[test]
fn the_tables_of_variables_name_those_that_exist_and_all_of_them() {
    let known: BTreeMap<&str, [&str; 4]> = VARIABLES.map(|row| (row[0], row)).into();
    let named = |text: &str, head: &str| -> BTreeMap<String, String> {
        let rows = tables(text, head);
        let row = |cells: &Vec<String>| {
            let default = cells[1].clone();
            quoted(&cells[0]).into_iter().map(move |name| (name, default.clone()))
        };
        rows.iter().flat_map(row).collect()
    };
    let mut all = BTreeSet::new();
    for document in documents() {
        for (name, cell) in named(&prose(&document), "variable") {
            let row = known.get(&*name);
            let [_, default, _, help] = row.unwrap_or_else(|| panic!("{document} has {name}"));
            assert_eq!(default_of(&cell), *default, "{document}: {name}");
            let required = help.contains("(required)");
            assert_eq!(cell == "required", required, "{document}: {name}, which --help has too");
            assert!(all.insert(name.clone()), "{document} has {name}, and another has it too");
        }
    }
    let missing: Vec<&&str> = known
        .keys()
        .filter(|name| !all.contains(**name) && **name != "CREDENTIALS_DIRECTORY")
        .collect();
    assert_eq!(missing, Vec::<&&str>::new(), "no table has them");

    // The Chinese half has the same, with the same defaults.
    let (english, chinese) = halves();
    let (english, chinese) = (named(&english, "variable"), named(&chinese, "变量"));
    assert!(chinese.len() > 10 && english.len() >= chinese.len());
    for (name, default) in chinese {
        let default = match &*default {
            "必填" => "required",
            "无" => "none",
            "空" => "empty",
            "不限" => "any",
            same => same,
        };
        assert_eq!(english.get(&name).map(String::as_str), Some(default), "{name}");
    }
}

/// Both halves have the same commands; a comment may be in the language of its half.
#[test]
fn the_chinese_half_has_the_commands_of_the_english_one() {
    let bare = |block: String| -> String {
        block.lines().map(|line| line.split("    #").next().unwrap().to_owned() + "\n").collect()
    };
    let all: Vec<String> = blocks(README, "sh").into_iter().map(bare).collect();
    for part in ["--example demo", "apt install -y git", "--check --online"] {
        let both: Vec<&String> = all.iter().filter(|block| block.contains(part)).collect();
        assert_eq!(both.len(), 2, "{part}: {both:#?}");
        assert_eq!(both[0], both[1]);
    }
    let (_, chinese) = halves();
    assert_eq!(chinese.matches("\n```sh\n").count(), 3);
}

/// What README's commands for a board do, with everything that they run replaced by `echo`.
#[test]
fn the_commands_for_a_board_say_what_they_should() {
    let commands = block(README, "sh", "--add-architecture");
    let echo: String =
        ["sudo", "cargo", "scp"].map(|name| format!("{name}() {{ echo \"$@\"; }}\n")).concat();
    let run = |commands: &str| {
        let output =
            Command::new("sh").args(["-euc", &format!("{echo}{commands}")]).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    for (number, arch, gnu, target) in [
        (0, "armhf", "arm-linux-gnueabihf", "armv7-unknown-linux-gnueabihf"),
        (1, "arm64", "aarch64-linux-gnu", "aarch64-unknown-linux-gnu"),
    ] {
        // Who has the other board types the other line.
        let lines: Vec<&str> = commands.lines().collect();
        let chosen = lines[number].trim_start_matches("# ");
        let typed = format!("{chosen}\n{}\n", lines[2..].join("\n"));
        let expected = format!(
            "dpkg --add-architecture {arch}\napt update\n\
             apt install -y cargo gcc-{gnu} libc6-dev-{arch}-cross libstd-rust-dev:{arch}\n\
             build --release --locked --target {target} --config target.{target}.linker='{gnu}-gcc'\n\
             target/{target}/release/appserver root@BOARD:/usr/local/bin/\n"
        );
        assert_eq!(run(&typed), expected);
    }
}

/// Every test that the audit guide names is one, and every path of tests is there.
#[test]
fn the_tests_that_the_audit_guide_names_exist() {
    let all: String = files("tests", ".rs").iter().map(|path| text(path)).collect();
    let mut names = 0;
    for row in [tables(&text(AUDIT_GUIDE), "attack"), tables(&text(AUDIT_GUIDE), "from")].concat() {
        let named = quoted(row.last().unwrap());
        assert!(!named.is_empty(), "no test stops {row:?}");
        for name in named {
            let there = match name.contains('/') {
                true => top().join(&name).exists(),
                false => all.contains(&format!("#[test]\nfn {name}()")),
            };
            assert!(there, "{name} is no test, for {row:?}");
            names += 1;
        }
    }
    assert!(names > 30, "only {names} names were found");
}

/// The files of the audit guide, core first: name and count.
fn listed() -> [Vec<(String, String)>; 2] {
    let guide = text(AUDIT_GUIDE);
    let (core, rest) = guide.split_once("\nThe rest: ").expect("two tables of files");
    [core, rest].map(|part| {
        let rows = tables(part, "file");
        rows.into_iter().map(|row| (quoted(&row[0]).concat(), row[1].clone())).collect()
    })
}

/// The number of lines of each file in src/.
fn counted() -> BTreeMap<String, usize> {
    let name = |path: &String| path.strip_prefix("src/").unwrap().to_owned();
    files("src", ".rs").iter().map(|path| (name(path), text(path).lines().count())).collect()
}

/// Audit guide: its table of files has the line count of each.
#[test]
fn the_audit_guide_lists_every_file_with_its_lines() {
    let counted: Vec<(String, String)> =
        counted().into_iter().map(|(name, lines)| (name, lines.to_string())).collect();
    let mut listed = listed().concat();
    listed.sort();
    assert_eq!(listed, counted);
}

/// Rounded up to a hundred.
#[test]
fn readme_says_how_many_lines_there_are() {
    let counted = counted();
    let core: usize = listed()[0].iter().map(|(name, _)| counted[name]).sum();
    let [core, all] =
        [core, counted.values().sum()].map(|lines: usize| with_comma(lines.div_ceil(100) * 100));
    let sentence = format!("{core} lines of Rust for the core, {all} in all");
    assert!(text(README).contains(&sentence), "README should say {sentence:?}");
}

/// Dependencies: README says how many crates cargo tree counts.
#[test]
fn readme_says_how_many_crates_there_are() {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
        .args(["tree", "--locked", "--offline", "-e", "normal", "--prefix", "none"])
        .current_dir(top())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let tree = String::from_utf8(output.stdout).unwrap();
    let crates: BTreeSet<&str> = tree.lines().map(|line| line.trim_end_matches(" (*)")).collect();
    let sentence = format!(" {} crates", crates.len() - 1); // one is the program itself
    assert!(text(README).contains(&sentence), "README should say {sentence:?}");
}

/// The crates of Cargo.toml, each with the files that name it.
#[test]
fn the_table_of_dependencies_is_that_of_cargo() {
    let manifest = text("Cargo.toml");
    let list = manifest.split("\n[dependencies]\n").nth(1).unwrap().split("\n[").next().unwrap();
    let crates: BTreeSet<&str> =
        list.lines().filter_map(|line| line.split_once(" = ")).map(|(name, _)| name).collect();
    let mut listed = BTreeSet::new();
    let rows = tables(&text(AUDIT_GUIDE), "crate");
    for row in &rows {
        let mut owners = BTreeSet::new();
        for name in row[0].split(", ") {
            assert!(listed.insert(name), "{name} is there twice");
            let path = format!("{}::", name.replace("md-5", "md5").replace('-', "_"));
            for file in files("src", ".rs") {
                let source = text(&file);
                if [" ", "(", "<", "&", "["]
                    .iter()
                    .any(|before| source.contains(&format!("{before}{path}")))
                {
                    owners.insert(file.strip_prefix("src/").unwrap().to_owned());
                }
            }
        }
        let named: BTreeSet<String> = quoted(&row[2]).into_iter().collect();
        assert_eq!(named, owners, "{}", row[0]);
    }
    assert_eq!(listed, crates);
}
