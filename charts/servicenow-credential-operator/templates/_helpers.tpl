{{- define "snowcred.name" -}}
{{- default .Chart.Name .Values.nameOverride | replace "." "-" | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* The release's name in front, unless it says the chart's name already. */}}
{{- define "snowcred.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | replace "." "-" | trunc 63 | trimSuffix "-" -}}
{{- else if contains (include "snowcred.name" .) .Release.Name -}}
{{- .Release.Name | replace "." "-" | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "snowcred.name" .) | replace "." "-" | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Names of objects without a namespace: two releases of one name in two namespaces do not meet. */}}
{{- define "snowcred.clusterName" -}}
{{- printf "%s:%s" .Release.Namespace (include "snowcred.fullname" .) -}}
{{- end -}}

{{- define "snowcred.selectorLabels" -}}
app.kubernetes.io/name: {{ include "snowcred.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{/* Labels of an object: the chart's own, then those of the object (`more`), then those of all. */}}
{{- define "snowcred.labels" -}}
{{- $labels := include "snowcred.selectorLabels" .root | fromYaml -}}
{{- $_ := set $labels "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_") -}}
{{- $_ := set $labels "app.kubernetes.io/version" .root.Chart.AppVersion -}}
{{- $_ := set $labels "app.kubernetes.io/managed-by" .root.Release.Service -}}
{{- toYaml (merge $labels (.more | default dict) .root.Values.commonLabels) -}}
{{- end -}}

{{/* On what decides who may do what, so that it can be applied apart from the rest. */}}
{{- define "snowcred.accessLabels" -}}
{{- include "snowcred.labels" (dict "root" . "more" (dict "app.kubernetes.io/component" "access")) -}}
{{- end -}}

{{- define "snowcred.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "snowcred.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name is needed where serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "snowcred.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "snowcred.replicas" -}}
{{- if .Values.highAvailability.enabled }}{{ .Values.highAvailability.replicas }}{{ else }}1{{ end -}}
{{- end -}}

{{/* What the operator does with resources, Secrets, ConfigMaps and workloads, where it acts. */}}
{{- define "snowcred.rules" -}}
# The resources that it acts upon. patch is for the finalizer of those with creationPolicy Merge.
- apiGroups: [snowcred.dev]
  resources: [servicenowcredentials]
  verbs: [get, list, watch, patch]
# What it answers.
- apiGroups: [snowcred.dev]
  resources: [servicenowcredentials/status]
  verbs: [patch]
# The clients that it reads and the targets that it writes. list and watch ask for metadata only.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, create, patch, delete]
# CA bundles of spec.tls. They are watched only while a resource names one.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, watch]
{{- if .Values.restart.enabled }}
# The workloads of spec.restart.
- apiGroups: [apps]
  resources: [deployments, statefulsets, daemonsets]
  verbs: [patch]
{{- end }}
# The way into and out of failure.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end -}}
