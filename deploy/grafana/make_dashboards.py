#!/usr/bin/env python3
"""Writes the dashboards of deploy/grafana/dashboards: run it after a change here and commit what it writes.

usage: make_dashboards.py [FOLDER]
Each panel states the question that it answers. tests/dashboards holds the queries against the daemons' metrics.
"""
import json
import os
import sys

SOURCE = {"type": "prometheus", "uid": "prometheus"}
ALL = '{instance=~"$instance"}'
MODEL = '{instance=~"$instance",model_name=~"$model"}'
RATE = "[$__rate_interval]"
DAEMONS = 'job=~"kv_store|router|gpu_worker"'


def rate(metric, by="", extra="", labels=MODEL):
    """sum by (by) (rate(metric{labels,extra}[...]))"""
    if extra:
        labels = labels[:-1] + "," + extra + "}"
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{labels}{RATE}))"


def quantile(q, metric, by="", labels=MODEL):
    return f"histogram_quantile({q}, {rate(metric + '_bucket', 'le' + (',' + by if by else ''), labels=labels)})"


def quantiles(metric, labels=MODEL):
    return [(quantile(q, metric, labels=labels), f"p{round(q * 100)}") for q in (0.5, 0.95, 0.99)]


def share(metric, by, labels=MODEL):
    """Of each value of `by`; nothing while nothing is counted."""
    return f"{rate(metric, by, labels=labels)} / ignoring({by}) group_left () ({rate(metric, labels=labels)} > 0)"


def total(metric, by="", labels=ALL):
    return f"sum{f' by ({by})' if by else ''} ({metric}{labels})"


# One colour for one tier, whichever panel.
TIER_COLOURS = {"device": "#b877d9", "held": "#73bf69", "ram": "#8ab8ff", "disk": "#ff780a", "miss": "#f2495c"}


def colour_of(name, colour):
    return {"matcher": {"id": "byName", "options": name},
            "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}]}


def panel(title, question, unit, targets, width=8, height=8, stacked=False, kind="timeseries", limits=None):
    custom = {"fillOpacity": 25 if stacked else 8, "lineWidth": 1, "showPoints": "never"}
    if stacked:
        custom["stacking"] = {"mode": "normal"}
    defaults = {"unit": unit, "min": 0}
    if kind == "timeseries":
        defaults["custom"] = custom
    if limits:
        defaults["max"] = limits
    options = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
    if kind == "stat":
        options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "area"}
    return {
        "title": title,
        "description": question,
        "type": kind,
        "datasource": SOURCE,
        "size": (width, height),
        "fieldConfig": {"defaults": defaults, "overrides": [
            colour_of(name, colour) for name, colour in TIER_COLOURS.items()
            if any(legend == "{{tier}}" for _, legend in targets)]},
        "options": options,
        "targets": [{"refId": chr(ord("A") + i), "datasource": SOURCE, "expr": expr, "legendFormat": legend}
                    for i, (expr, legend) in enumerate(targets)],
    }


def stat(title, question, unit, expr, width=4):
    return panel(title, question, unit, [(expr, title)], width=width, height=4, kind="stat")


def row(title):
    return {"title": title, "type": "row", "collapsed": False, "size": (24, 1), "panels": []}


def variable(name, label, query):
    return {"name": name, "label": label, "type": "query", "datasource": SOURCE, "definition": query,
            "query": {"query": query, "refId": name}, "refresh": 2, "multi": True, "includeAll": True,
            "allValue": ".*", "current": {"text": "All", "value": "$__all"}, "sort": 1}


def dashboard(uid, title, description, panels):
    x = y = line = 0
    placed = []
    for number, p in enumerate(panels, 1):
        width, height = p.pop("size")
        if x + width > 24:
            x, y, line = 0, y + line, 0
        p["id"] = number
        p["gridPos"] = {"x": x, "y": y, "w": width, "h": height}
        x, line = x + width, max(line, height)
        placed.append(p)
    return {
        "uid": uid, "title": title, "description": description, "tags": ["hga"], "schemaVersion": 38, "version": 1,
        "editable": True, "refresh": "10s", "time": {"from": "now-30m", "to": "now"}, "timezone": "browser",
        "templating": {"list": [variable("instance", "Instance", "label_values(up{" + DAEMONS + "}, instance)"),
                                variable("model", "Model", "label_values(hga_num_requests_running, model_name)")]},
        "links": [{"title": "HGA Serve", "type": "dashboards", "tags": ["hga"], "asDropdown": True,
                   "includeVars": True, "keepTime": True}],
        "annotations": {"list": []},
        "panels": placed,
    }


FAST = rate("hga_worker_kv_blocks_total", extra='tier=~"device|keys|held|ram"')
COMPUTED = f"({rate('hga_worker_prefill_tokens_total')} + {rate('hga_generation_tokens_total')} > 0)"


def overview():
    return dashboard("hga-overview", "HGA Serve: Overview", "Is it fast, and where does the K/V come from?", [
        stat("Daemons up", "Are all three daemons there?", "none", f'sum (up{{instance=~"$instance",{DAEMONS}}})'),
        stat("Requests running", "How much is being computed now?", "none",
             total("hga_num_requests_running", labels=MODEL)),
        stat("Requests waiting", "Does anybody wait for a turn?", "none",
             total("hga_num_requests_waiting", labels=MODEL)),
        stat("Tokens generated", "How fast are answers written, over all requests?", "suffix: tokens/s",
             rate("hga_generation_tokens_total")),
        stat("Blocks from RAM", "Which share of the K/V blocks that attention asked for was in RAM or on the device?",
             "percentunit", f"{FAST} / ({rate('hga_worker_kv_blocks_total')} > 0)"),
        stat("Prompt from the store", "Which share of the prompts' tokens did not have to be computed?", "percentunit",
             f"{rate('hga_prefix_cache_hits_total')} / ({rate('hga_prefix_cache_queries_total')} > 0)"),
        row("Speed"),
        panel("Tokens per second", "How many tokens are computed, and how many are spared by what the store has?",
              "suffix: /s", [(rate("hga_worker_prefill_tokens_total"), "prompt, computed"),
                             (rate("hga_prefix_cache_hits_total"), "prompt, from the store"),
                             (rate("hga_generation_tokens_total"), "generated")]),
        panel("Time to first token", "How long does a user wait for an answer to begin?", "s",
              quantiles("hga_time_to_first_token_seconds")),
        panel("Time per output token", "How fluently does an answer come, once it has begun?", "s",
              quantiles("hga_time_per_output_token_seconds")),
        row("Where the K/V comes from"),
        panel("Blocks by tier", "In which tier is the K/V found that attention asks for? held: in RAM, pinned by the "
              "sequence; keys: single keys that the worker has copied; miss: lost, computed again.", "percentunit",
              [(share("hga_worker_kv_blocks_total", "tier"), "{{tier}}")], stacked=True, limits=1),
        panel("K/V read per token", "How many bytes of K/V does a token need, and from which tier?", "bytes",
              [(f"{rate('hga_worker_kv_bytes_total', 'tier')} / ignoring(tier) group_left () {COMPUTED}", "{{tier}}")],
              stacked=True),
        panel("History attended", "Which share of the keys that dense attention would read does routing leave?",
              "percentunit", [(f"{rate('hga_worker_attended_keys_total', 'phase')} / "
                               f"({rate('hga_worker_dense_keys_total', 'phase')} > 0)", "{{phase}}")], limits=1),
        row("Requests and sessions"),
        panel("Requests", "How many requests are computed, and do they queue?", "none",
              [(total("hga_num_requests_running", labels=MODEL), "running"),
               (total("hga_num_requests_waiting", labels=MODEL), "waiting")]),
        panel("Requests ended", "Do requests end well, and if not, why?", "reqps",
              [(rate("hga_request_success_total", "finished_reason"), "ok: {{finished_reason}}"),
               (f"topk(3, {rate('hga_request_errors_total', 'code')})", "failed: {{code}}")]),
        panel("Kept", "How much has been read and is kept?", "none",
              [(total("hga_kv_store_sessions"), "sessions"), (total("hga_kv_store_chunks"), "chunks"),
               (total("hga_kv_store_durable_chunks"), "chunks on disk")]),
        row("Resources against their budgets"),
        panel("Arena", "How much of the RAM for K/V is in use?", "bytes",
              [(f"sum (hga_kv_store_slots{ALL[:-1]},state!=\"free\"}}) * ({total('hga_kv_store_arena_bytes')} / "
                f"({total('hga_kv_store_arena_slots')} > 0))", "in use"),
               (total("hga_kv_store_arena_bytes"), "budget")]),
        panel("Memory by daemon", "How much memory does each daemon hold? The arena counts in kv_store and in workers "
              "that touched it.", "bytes",
              [(f'process_resident_memory_bytes{{instance=~"$instance",{DAEMONS}}}', "{{job}}")]),
        panel("Disk", "How much does the database take, and how full is its file system?", "bytes",
              [(total("hga_kv_store_disk_bytes"), "database"),
               (f"{total('hga_kv_store_device_bytes')} - {total('hga_kv_store_device_free_bytes')}",
                "file system in use"), (total("hga_kv_store_device_bytes"), "file system")]),
        panel("CPU by daemon", "Which daemon uses the processor?", "short",
              [(f'sum by (job) (rate(process_cpu_seconds_total{{instance=~"$instance",{DAEMONS}}}{RATE}))',
                "{{job}}")], width=12),
        panel("Open files by daemon", "Does a daemon leak connections or files?", "none",
              [(f'process_open_fds{{instance=~"$instance",{DAEMONS}}}', "{{job}}")], width=12),
    ])


def tiers():
    store = {"labels": ALL}
    cache_hits = rate("hga_kv_store_rocksdb_block_cache_total", extra='result="hit"', **store)
    return dashboard("hga-tiers", "HGA Serve: Tiers", "What do RAM and disk do?", [
        row("Arena"),
        panel("Slots by state", "What is the arena filled with? clean: on disk too, evictable once nobody holds it; "
              "dirty: waits for the disk.", "none",
              [(total("hga_kv_store_slots", "state"), "{{state}}")], stacked=True),
        panel("Held slots", "How much of the arena is pinned by running requests?", "none",
              [(total("hga_kv_store_held_slots"), "held"), (total("hga_kv_store_arena_slots"), "all")]),
        panel("Evictions and reclaims", "Is the arena too small for what is under way?", "ops",
              [(rate("hga_kv_store_evictions_total", **store), "blocks evicted"),
               (rate("hga_kv_store_reclaims_total", **store), "requests to give back"),
               (rate("hga_worker_given_back_blocks_total"), "blocks given back")]),
        row("Fetches"),
        panel("Fetched blocks by tier", "Where does kv_store find the blocks that a worker does not hold?", "ops",
              [(rate("hga_kv_store_fetched_blocks_total", "tier", **store), "{{tier}}")], stacked=True),
        panel("Time of a fetch", "How long does a worker wait for blocks that it does not hold?", "s",
              quantiles("hga_kv_store_fetch_seconds", **store)),
        panel("Time of a disk read", "How long does the disk take for one batch of blocks?", "s",
              quantiles("hga_kv_store_disk_read_seconds", **store)),
        row("Write-back"),
        panel("Write-back queue", "Does the disk keep up with what is computed?", "none",
              [(total("hga_kv_store_writeback_queue_chunks"), "chunks that wait")]),
        panel("Made durable", "How fast is K/V written to disk?", "Bps",
              [(rate("hga_kv_store_written_bytes_total", **store), "K/V")]),
        panel("Time of a write", "How long does one batch take to be durable?", "s",
              quantiles("hga_kv_store_write_seconds", **store)),
        row("RocksDB"),
        panel("Read", "How much is read from disk, and what for?", "Bps",
              [(rate("hga_kv_store_rocksdb_read_bytes_total", **store), "blocks and summaries"),
               (rate("hga_kv_store_rocksdb_compaction_read_bytes_total", **store), "compaction")], stacked=True),
        panel("Written", "How much is written, and how much of it is the database's own work?", "Bps",
              [(rate("hga_kv_store_rocksdb_written_bytes_total", "for", **store), "{{for}}")], stacked=True),
        panel("Compaction", "Does compaction fall behind?", "bytes",
              [(total("hga_kv_store_rocksdb_pending_compaction_bytes"), "yet to compact"),
               (total("hga_kv_store_rocksdb_memtable_bytes"), "write buffers")]),
        panel("Background jobs", "What does RocksDB do beside reads and writes?", "none",
              [(total("hga_kv_store_rocksdb_running_compactions"), "compactions"),
               (total("hga_kv_store_rocksdb_running_flushes"), "flushes")]),
        panel("Stalled", "Which share of the time do flushes and compactions hold writes up?", "percentunit",
              [(rate("hga_kv_store_rocksdb_stall_seconds_total", **store), "stalled")]),
        panel("Index cache", "Are RocksDB's indexes found in memory?", "percentunit",
              [(f"{cache_hits} / ({rate('hga_kv_store_rocksdb_block_cache_total', **store)} > 0)", "hits")], limits=1),
        panel("Dead space", "How much of the database is of deleted blocks?", "bytes",
              [(total("hga_kv_store_disk_garbage_bytes"), "dead"), (total("hga_kv_store_disk_bytes"), "all")]),
        panel("Relocated", "What does it cost to free dead space: how many live bytes are moved?", "Bps",
              [(rate("hga_kv_store_rocksdb_relocated_bytes_total", **store), "live bytes moved")]),
        panel("RocksDB's memory", "Does RocksDB keep to its budget?", "bytes",
              [(total("hga_kv_store_rocksdb_memory_bytes"), "in use"),
               (total("hga_kv_store_rocksdb_memory_budget_bytes"), "budget")]),
        row("Trouble"),
        panel("Losses", "Was K/V lost, or does a client misbehave?", "none",
              [(total("hga_kv_store_checksum_errors_total"), "chunks with a bad checksum"),
               (total("hga_worker_cut_backs_total", labels=MODEL), "sequences set back"),
               (total("hga_kv_store_unknown_releases_total"), "releases of what was not held")]),
        panel("Write errors", "Does the disk refuse writes?", "ops",
              [(rate("hga_kv_store_write_errors_total", **store), "failed writes")]),
        panel("Clients", "Who is attached, and who has left without letting go?", "none",
              [(total("hga_kv_store_clients"), "attached"),
               (total("hga_kv_store_quarantined_clients"), "left, still mapped")]),
    ])


def router():
    own = {"labels": ALL}
    exchanges = rate("hga_router_exchanges_total", **own)
    return dashboard("hga-router", "HGA Serve: Router", "What does selection cost, and is it there?", [
        row("Selection"),
        panel("Time of an exchange", "How long does the router take to answer for one layer?", "s",
              quantiles("hga_router_exchange_seconds", **own)),
        panel("Where the time goes", "Which stage of a selection takes how much of an exchange?", "s",
              [(f"{rate('hga_router_stage_seconds_total', 'stage', **own)} / ignoring(stage) group_left () "
                f"({exchanges} > 0)", "{{stage}}")], stacked=True),
        panel("The worker's wait", "How long does a step stand still for a selection, after the window was attended?",
              "s", quantiles("hga_worker_route_wait_seconds")),
        row("Traffic"),
        panel("Exchanges by transport", "Is the ring in shared memory used, or the slower stream?", "ops",
              [(rate("hga_router_exchanges_total", "transport", **own), "{{transport}}")], stacked=True),
        panel("Selections", "How many blocks of queries get a selection?", "ops",
              [(rate("hga_router_selections_total", **own), "selections")]),
        panel("Errors by cause", "Which route requests fail, and why?", "ops",
              [(rate("hga_router_exchange_errors_total", "code", **own), "{{code}}")]),
        row("Index"),
        panel("Index size", "How much memory do summaries take, against what closed sequences may take?", "bytes",
              [(total("hga_router_index_bytes"), "in use"), (total("hga_router_cache_limit_bytes"), "limit (closed)")],
              width=6),
        panel("Open sequences", "What is indexed now?", "none",
              [(total("hga_router_sequences"), "sequences"), (total("hga_router_index_chunks"), "chunks"),
               (total("hga_router_workers"), "workers")], width=6),
        panel("Summaries by source", "Does the router have to rebuild from kv_store?", "ops",
              [(rate("hga_router_indexed_chunks_total", "source", **own), "{{source}}")], stacked=True,
              width=6),
        panel("Time to open a sequence", "How long does it take to index a document that is known?", "s",
              quantiles("hga_router_open_seconds", **own), width=6),
        row("Without a router"),
        panel("Dense fallback", "Do steps attend to everything because the router is away?", "ops",
              [(rate("hga_worker_dense_fallback_steps_total"), "steps without a router")]),
        panel("Attached", "Does the worker have its router and its store?", "none",
              [(f"min (hga_worker_router_attached{MODEL})", "router"),
               (f"min (hga_worker_kv_store_attached{MODEL})", "kv_store")], limits=1),
        panel("The router's CPU", "How much processor does selection take?", "short",
              [(f'sum (rate(process_cpu_seconds_total{{instance=~"$instance",job="router"}}{RATE}))', "router")]),
    ])


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, "dashboards")
    for name, board in (("overview", overview()), ("tiers", tiers()), ("router", router())):
        with open(os.path.join(folder, name + ".json"), "w", encoding="utf-8") as file:
            json.dump(board, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
