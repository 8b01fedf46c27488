{{/*
A table as TOML: its values, then its tables. A number of YAML comes as a float: JSON writes 6 as 6, which is an integer
to TOML, and toToml would not. Takes (dict "path" (list) "table" .).
*/}}
{{- define "streamrec.table" -}}
{{- $path := .path -}}
{{- $quoted := list -}}
{{- range $path }}{{ $quoted = append $quoted (toJson .) }}{{ end -}}
{{- if $path }}
[{{ join "." $quoted }}]
{{ end -}}
{{- range $name, $value := .table }}{{ if and (not (kindIs "map" $value)) (not (kindIs "invalid" $value)) -}}
{{ toJson $name }} = {{ toJson $value }}
{{ end }}{{ end -}}
{{- range $name, $value := .table }}{{ if kindIs "map" $value -}}
{{ include "streamrec.table" (dict "path" (append $path $name) "table" $value) -}}
{{ end }}{{ end -}}
{{- end -}}

{{/* The settings as given, and on top of them what the chart knows. As YAML. */}}
{{- define "streamrec.settings" -}}
{{- $own := dict "metrics_port" .Values.metrics.port "metrics_host" "0.0.0.0" -}}
{{- $_ := set $own "learner" (dict "where" "elsewhere" "metrics_port" .Values.metrics.port) -}}
{{- $_ := set $own "snapshots" (dict "url" (.Values.snapshots.url | default "/var/lib/streamrec/snapshots")) -}}
{{- if and .Values.redis.secret.name (not .Values.redis.secret.urlKey) -}}
{{- $_ := set $own "redis" (dict "password_file" "/etc/streamrec/redis/password") -}}
{{- end -}}
{{- if .Values.kafka.ca.secret -}}
{{- $_ := set $own "kafka" (dict "ssl.ca.location" "/etc/streamrec/kafka-ca/ca.crt") -}}
{{- end -}}
{{- if .Values.trends.enabled -}}
{{- $_ := set $own "trends" (dict "web_port" .Values.trends.webPort "web_host" "0.0.0.0") -}}
{{- end -}}
{{- mustMergeOverwrite (deepCopy .Values.settings) $own | toYaml -}}
{{- end -}}

{{- define "streamrec.toml" -}}
{{ include "streamrec.table" (dict "path" (list) "table" (include "streamrec.settings" . | fromYaml)) | trim }}
{{ end -}}

{{/*
Every topic, as streamrec/transport/topics.py wants it: name, partitions, how it is cleaned up and for how long it is
kept. As JSON.
*/}}
{{- define "streamrec.topics" -}}
{{- $topics := dict -}}
{{- with .Values.settings.topics }}{{ $topics = . }}{{ end -}}
{{- $day := 86400000 -}}
{{- $kept := $topics.retention_ms | default (mul 7 $day) | int64 -}}
{{- $long := ternary (mul 4 $kept) -1 (gt $kept 0) -}}
{{- $many := $topics.partitions | default 6 | int -}}
{{- $delete := dict "cleanup.policy" "delete" "retention.ms" (toString $kept) -}}
{{- $deleteLate := dict "cleanup.policy" "delete" "retention.ms" (toString $long) -}}
{{- $deleteSoon := dict "cleanup.policy" "delete" "retention.ms" "21600000" -}}
{{- $compact := dict "cleanup.policy" "compact" -}}
{{- list
  (dict "name" ($topics.events | default "user-events") "partitions" $many "config" $delete)
  (dict "name" ($topics.items | default "items") "partitions" $many "config" $compact)
  (dict "name" ($topics.recommendations | default "recommendations") "partitions" $many "config" $delete)
  (dict "name" ($topics.outcomes | default "outcomes") "partitions" $many "config" $deleteLate)
  (dict "name" ($topics.trends | default "item-trends") "partitions" $many "config" $compact)
  (dict "name" ($topics.dead_letters | default "user-events.dlq") "partitions" $many "config" $deleteLate)
  (dict "name" ($topics.examples | default "examples") "partitions" 1 "config" $delete)
  (dict "name" ($topics.model_updates | default "model-updates") "partitions" 1 "config" $deleteSoon)
  | toJson -}}
{{- end -}}
