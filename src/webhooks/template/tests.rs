//! Tests of templates.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn event() -> Value {
    json!({
        "Kind": { "Name": "app.deploy", "Type": "permission" },
        "Target": { "Type": "app", "Value": "shop" },
        "Error": "exit \"1\" <b>\n",
        "Running": false,
        "Tags": ["a", "b"],
        "Empty": [],
        "Count": 3,
        "CustomData": { "Start": null },
    })
}

fn rendered(source: &str) -> String {
    BodyTemplate::parse(source)
        .unwrap_or_else(|error| panic!("{source}: {error}"))
        .render(&event())
        .unwrap()
}

#[test]
fn slack_example_renders_its_fields() {
    assert_eq!(
        rendered(r#"payload={"text": "[{{.Kind.Name}}]: {{.Target.Type}} {{.Target.Value}}"}"#),
        r#"payload={"text": "[app.deploy]: app shop"}"#
    );
}

#[test]
fn actions_render_as_in_go() {
    for (source, wanted) in [
        ("", ""),
        ("plain } and { stay", "plain } and { stay"),
        ("{{.Count}} {{.Running}} {{.Tags}}", r#"3 false ["a","b"]"#),
        ("{{.CustomData.Start.Image}}", "<no value>"),
        ("a {{- .Count -}} b", "a3b"),
        ("a {{/* {{ }} no output */}}b", "a b"),
        ("a {{- /* x */ -}} b", "ab"),
        ("{{if .Error}}failed{{else}}done{{end}}", "failed"),
        (
            "{{if .Running}}1{{else if .Empty}}2{{else if .Tags}}3{{else}}4{{end}}",
            "3",
        ),
        ("{{range .Tags}}<{{.}} {{$.Count}}>{{end}}", "<a 3><b 3>"),
        ("{{range .Empty}}x{{else}}none{{end}}", "none"),
        ("{{range .Target}}{{.}},{{end}}", "app,shop,"),
        (
            "{{with .Target}}{{.Value}}{{end}}{{with .Empty}}x{{else}}-{{end}}",
            "shop-",
        ),
        (
            r#"{{eq .Target.Value "x" "shop"}} {{ne .Count 4}} {{not .Running}}"#,
            "true true true",
        ),
        (r#"{{if and (eq .Kind.Name "app.deploy") .Error}}y{{end}}"#, "y"),
        ("{{or .Empty .Running \"last\"}} {{and .Tags .Empty}}", "last []"),
        ("{{len .Tags}} {{.Tags | len}} {{len .Count}}", "2 2 0"),
        ("{{.Error | json}}", r#""exit \"1\" <b>\n""#),
        (r#"{{js .Error}}"#, r#"exit \"1\" \u003Cb\u003E\n"#),
        ("{{`raw }}`}}{{\"q\\\"}}\"}}", "raw }}q\"}}"),
        ("{{1.5}} {{-2}} {{true}} {{nil}}", "1.5 -2 true <no value>"),
    ] {
        assert_eq!(rendered(source), wanted, "{source}");
    }
}

#[test]
fn escaped_string_is_a_string_of_json() {
    let text = rendered(r#"{"text": "{{js .Error}}"}"#);
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["text"], event()["Error"]);
}

#[test]
fn error_names_line_and_column() {
    for (source, place) in [
        ("{{", "line 1, column 3"),
        ("a\n é{{.Kind.Name", "line 2, column 15"),
        (
            "{{printf \"%s\" .Error}}",
            "line 1, column 3: there is no function \"printf\"",
        ),
        ("{{$x := .Error}}", "line 1, column 3: there are no variables"),
        ("{{if .Error}}x", "line 1, column 1: if has no end"),
        ("{{range .Tags}}x{{else}}", "line 1, column 1: range has no end"),
        ("x{{end}}", "line 1, column 2: there is no block"),
        ("{{else}}", "line 1, column 1"),
        ("{{if .A}}{{else}}{{else}}{{end}}", "line 1, column 18"),
        ("{{with .A}}{{else if .B}}{{end}}", "line 1, column 12"),
        ("{{}}", "line 1, column 3: a value is missing"),
        ("{{if}}{{end}}", "line 1, column 5"),
        ("{{.A .B}}", "only a function has arguments"),
        ("{{.A | .B}}", "only a function can follow a pipe"),
        ("{{.A | }}", "a value is missing"),
        ("{{not}}", "another number of arguments"),
        ("{{eq .A}}", "another number of arguments"),
        ("{{(.A}}", "a parenthesis is not closed"),
        ("{{.A)}}", "a parenthesis is closed"),
        ("{{..A}}", "each dot"),
        ("{{.A.}}", "each dot"),
        ("{{\"x}}", "a string is not closed"),
        ("{{\"\\q\"}}", "unknown escape"),
        ("{{1x}}", "not a number"),
        ("{{/* x}}", "a comment has no end"),
        ("{{/* x */ .A}}", "the whole action"),
        ("{{#if}}", "has no meaning here"),
        ("{{template \"x\"}}", "there is no function"),
    ] {
        let error = BodyTemplate::parse(source).unwrap_err();
        assert!(error.message().contains(place), "{source}: {error}");
        assert!(!error.message().contains('\n'), "{error}");
    }
}

#[test]
fn unknown_field_of_the_event_is_refused_where_it_is_known() {
    let check = |source: &str| BodyTemplate::parse(source).unwrap().check_fields(&event());
    for good in [
        "{{.Kind.Name}}",
        "{{range .Tags}}{{.Anything}}{{$.Count}}{{end}}",
        "{{.CustomData.Start.Image}}",
    ] {
        assert!(check(good).is_ok(), "{good}");
    }
    for (bad, place) in [
        ("x {{.Knd.Name}}", "column 5: there is no field \"Knd\""),
        ("{{.Count.X}}", "\"X\""),
        ("{{if eq (len .Tagz) 1}}{{end}}", "\"Tagz\""),
        ("{{if .Error}}{{else}}{{.Nope}}{{end}}", "\"Nope\""),
        ("{{with .Target}}{{$.Nope}}{{end}}", "\"Nope\""),
        ("{{range .Nope}}{{end}}", "\"Nope\""),
    ] {
        let error = check(bad).unwrap_err();
        assert!(error.message().contains(place), "{bad}: {error}");
    }
}

#[test]
fn size_depth_and_time_are_bounded() {
    assert!(BodyTemplate::parse(&"x".repeat(MAX_TEMPLATE_BYTES + 1)).is_err());
    for (open, close) in [("{{if 1}}", "{{end}}"), ("{{else if 1}}", "")] {
        let deep = format!("{{{{if 1}}}}{}{}{{{{end}}}}", open.repeat(900), close.repeat(900));
        assert!(BodyTemplate::parse(&deep).is_err());
    }
    let deep = format!("{{{{{}1{}}}}}", "(".repeat(1000), ")".repeat(1000));
    assert!(BodyTemplate::parse(&deep).is_err());
    let many = json!({ "L": vec!["x".repeat(100); 100] });
    let loops = "{{range $.L}}".repeat(5) + "{{$.L}}" + &"{{end}}".repeat(5);
    let template = BodyTemplate::parse(&loops).unwrap();
    assert!(template.render(&many).is_err());
    let silent = "{{range $.L}}".repeat(8) + &"{{end}}".repeat(8);
    assert!(BodyTemplate::parse(&silent).unwrap().render(&many).is_err());
}

proptest! {
    #[test]
    fn no_template_makes_it_panic(source in r#"(\{\{|\}\}|-|if|else|end|range|with|eq|js|[ .$|()"`\\a\n]|é|1|/\*|\*/){0,30}"#) {
        if let Ok(template) = BodyTemplate::parse(&source) {
            let _ = template.check_fields(&event());
            let _ = template.render(&event());
        }
    }
}
