"""lm_eval through /v1/completions on task files of its own: python lm_eval_check.py http://127.0.0.1:PORT MODEL_FOLDER. The
likelihoods and answers that it reports must be those that the server gives to plain requests.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import urllib.request

URL, MODEL = sys.argv[1:]
QUESTIONS = [
    ("Once upon a time there was a", [" fox", " lamp", " of"], 0),
    ("The owl sat on a", [" tree", " and", " was"], 0),
    ("She was very happy and", [" the the", " smiled"], 1),
    ("He gave the letter to his", [" friend", " quickly"], 0),
]
TASKS = {
    "outpour_choices": {
        "output_type": "multiple_choice", "doc_to_choice": "{{choices}}", "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc"}],
    },
    "outpour_answers": {
        "output_type": "generate_until", "doc_to_target": "{{said}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 12, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    },
}


def complete(body):
    request = urllib.request.Request(f"{URL}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as response:
        return json.load(response)["choices"][0]


def likelihood(context, continuation):
    """Sum of the log-probabilities of the continuation's tokens."""
    body = {"prompt": context + continuation, "echo": True, "logprobs": 1, "max_tokens": 0}
    logprobs = complete(body)["logprobs"]
    pairs = zip(logprobs["text_offset"], logprobs["token_logprobs"])
    return sum(logprob for offset, logprob in pairs if offset >= len(context))


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        lines = []
        for question, choices, answer in QUESTIONS:
            said = complete({"prompt": question, "max_tokens": 12, "temperature": 0, "stop": ["\n"]})["text"]
            lines.append({"question": question, "choices": choices, "answer": answer, "said": said})
        (folder / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        for name, task in TASKS.items():
            data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(folder / "questions.jsonl")}}}
            # JSON is YAML.
            config = {"task": name, "test_split": "test", "doc_to_text": "{{question}}", "target_delimiter": "", **data, **task}
            (folder / f"{name}.yaml").write_text(json.dumps(config))
        arguments = f"model=demo,base_url={URL}/v1/completions,tokenizer={MODEL},tokenized_requests=False,num_concurrent=2,max_retries=1"
        environment = {
            **os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "cache"), "HF_HOME": str(folder / "home"),
            "OPENAI_API_KEY": "none",
        }
        command = [
            sys.executable, "-m", "lm_eval", "--model", "local-completions", "--model_args", arguments, "--include_path",
            str(folder), "--tasks", ",".join(TASKS), "--output_path", str(folder / "out"), "--log_samples",
        ]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr[-3000:]
        results = json.loads(next((folder / "out").rglob("results_*.json")).read_text())["results"]
        samples = {}
        for name in TASKS:
            file = next((folder / "out").rglob(f"samples_{name}_*.jsonl"))
            samples[name] = [json.loads(line) for line in file.read_text().splitlines()]
        right = 0
        for sample in samples["outpour_choices"]:
            doc = sample["doc"]
            expected = [likelihood(doc["question"], choice) for choice in doc["choices"]]
            reported = [float(response[0][0]) for response in sample["resps"]]
            assert all(abs(a - b) < 1e-3 for a, b in zip(expected, reported)), (doc, expected, reported)
            right += expected.index(max(expected)) == doc["answer"]
        accuracy = results["outpour_choices"]["acc,none"]
        assert abs(accuracy - right / len(QUESTIONS)) < 1e-9, (accuracy, right)
        assert results["outpour_answers"]["exact_match,none"] == 1, samples["outpour_answers"]
        print(f"lm_eval: {len(QUESTIONS)} questions, {accuracy:.2f} right, every likelihood and answer is the server's")


main()
