"""What huggingface_hub writes into its cache, and what it finds there: hub_cache.py download|find ORG/REPO FILE..."""

import sys

from huggingface_hub import hf_hub_download, scan_cache_dir

what, repo, files = sys.argv[1], sys.argv[2], sys.argv[3:]
for file in files:
    print(hf_hub_download(repo, file, local_files_only=what == "find"))
if what == "find":
    found = scan_cache_dir()
    revisions = sum(len(repo.revisions) for repo in found.repos)
    print(f"{len(found.repos)} repo, {revisions} revision, {len(found.warnings)} warnings")
    for warning in found.warnings:
        print(warning)
