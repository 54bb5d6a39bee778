//! Chat templates of released models, rendered as transformers renders them.

mod common;

use std::path::{Path, PathBuf};

use common::{dir, json as read_json, none_wrong};
use outpour_text::{ChatRequest, ChatTemplate, TextError};
use serde_json::Value;

/// 2026-03-04 05:06:07, the time at which the fixtures were rendered.
const NOW_S: i64 = 1_772_600_767;

fn request(chat: &Value) -> ChatRequest {
    ChatRequest {
        messages: chat["messages"].as_array().expect("messages").clone(),
        tools: chat["tools"].as_array().cloned(),
        add_generation_prompt: chat["add_generation_prompt"] == true,
        kwargs: chat["kwargs"].as_object().cloned().unwrap_or_default(),
        now_s: Some(NOW_S),
    }
}

/// Where ours is not transformers': another text, or a text where there was an error.
fn differences(folder: &Path) -> (usize, Vec<String>) {
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).expect(name);
    let cases: Value = serde_json::from_str(&read("cases.json")).expect("JSON");
    let special = read_json("tokenizer_config.json").as_object().expect("an object").clone();
    let (mut compared, mut wrong) = (0, Vec::new());
    for (name, expected) in cases["expected"].as_object().expect("templates") {
        let template =
            ChatTemplate::from_source(&read(name), &special).unwrap_or_else(|error| panic!("{name}: {error}"));
        for (chat, expected) in cases["chats"].as_array().expect("chats").iter().zip(expected.as_array().expect("all"))
        {
            let got = template.render(&request(chat));
            let same = match (&got, expected["expected"].as_str()) {
                (Ok(got), Some(expected)) => got == expected,
                (Err(TextError::TemplateRefused { .. } | TextError::TemplateRender { .. }), None) => true,
                _ => false,
            };
            compared += usize::from(expected["expected"].is_string());
            if !same {
                wrong.push(format!("{name}, {}: {got:?}\n  instead of {expected}", chat["name"]));
            }
        }
    }
    (compared, wrong)
}

/// Of the fixture, or of any folder of templates that `reference/text_released.py FOLDER` has rendered.
#[test]
fn templates_of_released_models_are_rendered_as_by_transformers() {
    let folder = std::env::var_os("OUTPOUR_TEMPLATES").map_or(dir().with_file_name("text_released"), PathBuf::from);
    let (compared, wrong) = differences(&folder);
    none_wrong(wrong);
    assert!(compared > 150, "only {compared} conversations were compared");
}
