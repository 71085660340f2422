{{/* The alerts of docs/operations.md. (dict "root" $ "alert" … "expr" … "for" … "severity" … "summary" … "runbook" …) */}}
{{- define "conclave.alert" -}}
- alert: {{ .alert }}
  expr: {{ .expr | quote }}
  for: {{ .for }}
  labels:
    severity: {{ .severity }}
    {{- with .root.Values.metrics.prometheusRule.alertLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    summary: {{ .summary | quote }}
    runbook: {{ .runbook | quote }}
{{ end }}

{{- define "conclave.alerts" -}}
{{- $root := . -}}
{{- $me := printf "namespace=\"%s\",service=\"%s\"" .Release.Namespace (include "conclave.headless" .) -}}
{{- $pod := "{{ $labels.pod }}" -}}
{{- $exec := printf "kubectl -n %s exec %s-0 -- /bin/conclave" .Release.Namespace (include "conclave.fullname" .) -}}
{{- include "conclave.alert" (dict "root" $root "alert" "ConclaveNoLeader" "severity" "critical" "for" "30s"
  "expr" (printf "max(conclave_has_leader{%s}) == 0" $me)
  "summary" "No server knows a leader: there is no majority, and nothing can be written."
  "runbook" (printf "See which servers run (kubectl -n %s get pods -o wide) and can reach each other on port 7402. A majority must come back; do not delete disks." .Release.Namespace)) }}
{{- include "conclave.alert" (dict "root" $root "alert" "ConclaveServerWithoutLeader" "severity" "warning" "for" "2m"
  "expr" (printf "conclave_has_leader{%s} == 0" $me)
  "summary" (printf "%s knows no leader." $pod)
  "runbook" "It is cut off from its peers, or refused by them. Its log says why; look at its certificate and at the NetworkPolicy for port 7402.") }}
{{- include "conclave.alert" (dict "root" $root "alert" "ConclaveServersMissing" "severity" "warning" "for" "5m"
  "expr" (printf "max(conclave_members{%s}) > count(conclave_has_leader{%s})" $me $me)
  "summary" "The cluster has more members than servers that answer."
  "runbook" (printf "Start those that are missing. If one is gone for good: %s cluster remove ID." $exec)) }}
{{- include "conclave.alert" (dict "root" $root "alert" "ConclaveDiverged" "severity" "critical" "for" "0s"
  "expr" (printf "conclave_diverged{%s} == 1" $me)
  "summary" (printf "The state of %s differs from its peers'. It serves nothing." $pod)
  "runbook" "Keep its disk and log for a report. Then stop it, remove it from the cluster, and add a server with an empty disk under a new id.") }}
{{- include "conclave.alert" (dict "root" $root "alert" "ConclaveFollowerBehind" "severity" "warning" "for" "10m"
  "expr" (printf "max by (member) (conclave_follower_behind_entries{%s}) > 5000" $me)
  "summary" "Member {{ $labels.member }} is more than 5000 entries behind its leader."
  "runbook" "Its disk is slow or its link is. Compare conclave_log_sync_seconds of the servers. Further behind, it is sent a snapshot.") }}
{{- include "conclave.alert" (dict "root" $root "alert" "ConclaveKeepAlivesUnconfirmed" "severity" "warning" "for" "2m"
  "expr" (printf "sum(rate(conclave_keep_alives_unconfirmed_total{%s}[5m])) > 0" $me)
  "summary" "Keep-alives are not confirmed in time: sessions, and the locks they hold, are in danger."
  "runbook" "The leader cannot reach its majority quickly enough, or has no CPU. Look at conclave_proposal_seconds, and at throttling of the pods.") }}
{{- include "conclave.alert" (dict "root" $root "alert" "ConclaveOverloaded" "severity" "warning" "for" "5m"
  "expr" (printf "sum(rate(conclave_proposals_total{%s,result=\"overloaded\"}[5m])) > 0" $me)
  "summary" "More is written than the disks take; writes are refused."
  "runbook" "Find the writer with conclave history and the rates of conclave_proposals_total. Faster disks, or fewer writes.") }}
{{- include "conclave.alert" (dict "root" $root "alert" "ConclaveSlowReader" "severity" "info" "for" "10m"
  "expr" (printf "conclave_outbox_bytes_largest{%s} > on (pod) (0.8 * conclave_limit{%s,limit=\"outbox_bytes_max\"})" $me $me)
  "summary" (printf "A client of %s reads its events too slowly; its watches will fall behind." $pod)
  "runbook" "It catches up from history. If it stays so, its watches are wider than it needs.") }}
{{- if ne .Values.tls.mode "disabled" }}
{{- include "conclave.alert" (dict "root" $root "alert" "ConclaveCertificateEnds" "severity" "warning" "for" "1h"
  "expr" (printf "conclave_tls_certificate_expiry_seconds{%s} < 21 * 86400" $me)
  "summary" (printf "The certificate of %s ends in less than three weeks. After that, nobody can connect." $pod)
  "runbook" (printf "Renew the Secret %s; the servers take it without a restart. If the chart made it (tls.mode selfMade): delete it, then run helm upgrade with the same values." (include "conclave.tlsSecret" .))) }}
{{- include "conclave.alert" (dict "root" $root "alert" "ConclaveCertificateRefused" "severity" "warning" "for" "0s"
  "expr" (printf "increase(conclave_tls_reload_failures_total{%s}[15m]) > 0" $me)
  "summary" (printf "%s cannot use its new certificate files, and keeps the old ones." $pod)
  "runbook" (printf "Its log says what is wrong with them. Look at the Secret %s: tls.crt and tls.key must belong together, and ca.crt must have signed them." (include "conclave.tlsSecret" .))) }}
{{- end }}
{{- range $what, $limit := dict "store_bytes" "store_bytes_max" "nodes" "nodes_max" "sessions" "sessions_max" "connections" "connections_max" }}
{{- include "conclave.alert" (dict "root" $root "alert" (printf "Conclave%sNearLimit" (regexReplaceAll "_" (title (replace "_" " " $what)) "" | nospace)) "severity" "warning" "for" "10m"
  "expr" (printf "conclave_%s{%s} > on (pod) (0.8 * conclave_limit{%s,limit=\"%s\"})" $what $me $me $limit)
  "summary" (printf "%s: conclave_%s has reached four fifths of limits.%s." $pod $what $limit)
  "runbook" (printf "Beyond the limit, requests are refused. Remove what is not needed, or raise config.limits.%s; for what is kept in memory raise resources.limits.memory first." $limit)) }}
{{- end }}
{{- end }}
