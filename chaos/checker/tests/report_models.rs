//! Reports of generated histories of every model, good and spoiled, as judged by the checker: each opens in a browser
//! without a complaint and frames what the judgement says.

mod browser;

use browser::Browser;
use conclave_checker::{
    Limits, Model, Verdict, check,
    generate::{Config, generate, mutate::KINDS},
    report::{Report, render},
};
use serde_json::json;

#[test]
fn every_model_is_drawn_good_and_spoiled() {
    let directory = tempfile::tempdir().unwrap();
    let mut browser = Browser::start(1440, 900);
    for name in Model::NAMES {
        let name = name.replace(":N", ":2");
        let model = Model::parse(&name).unwrap();
        let config = Config {
            keys: if model.keyed() { 3 } else { 1 },
            unknown: 0.01,
            fail: 0.01,
            ..Config::new(model.clone(), 5, 240, 11)
        };
        let good = generate(&config);
        // The first kind that finds a place here.
        let spoiled = KINDS.iter().filter(|kind| kind.suits(&model)).find_map(|kind| {
            let mut history = good.clone();
            kind.apply(&mut history, &model, 1).map(|_| history)
        });
        let spoiled = spoiled.unwrap_or_else(|| panic!("{name}: nothing could be spoiled"));
        for (history, words) in [(good, "Linearizable"), (spoiled, "Not linearizable")] {
            let judgement = check(&history, &model, &Limits::default());
            assert_eq!(
                judgement.verdict == Verdict::Linearizable,
                words == "Linearizable",
                "{name}: {:?}",
                judgement.verdict
            );
            let page = directory.path().join("report.html");
            std::fs::write(&page, render(&Report::new(&format!("{name}.jsonl"), &name, &history, &judgement))).unwrap();
            browser.open(&page);
            browser.picture(&format!(
                "model-{}-{}",
                name.replace(':', "-"),
                if words == "Linearizable" { "good" } else { "bad" }
            ));
            assert_eq!(browser.ask("document.querySelector('h1').innerText"), json!(words), "{name}");
            assert_eq!(browser.ask("conclaveReport.shown"), json!(history.operations.len()), "{name}");
            let (framed, culprit) = match judgement.refutations.first() {
                Some(refutation) => (json!(refutation.operations), json!(refutation.culprit)),
                None => (json!([]), json!(null)),
            };
            assert_eq!(browser.ask("conclaveReport.framed"), framed, "{name}");
            assert_eq!(browser.ask("conclaveReport.culprit"), culprit, "{name}");
            assert_eq!(browser.complaints(&page), Vec::<String>::new(), "{name}");
        }
    }
}
